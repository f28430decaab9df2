"""A deployment's life on Cloudflare, from command to teardown."""
