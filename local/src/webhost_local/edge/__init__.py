"""The local edge: what stands in for Cloudflare and for the one public origin on one machine."""
