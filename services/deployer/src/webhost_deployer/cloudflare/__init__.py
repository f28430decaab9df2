"""The runtime provider `cloudflare`: nothing of Cloudflare is known outside of this folder."""
