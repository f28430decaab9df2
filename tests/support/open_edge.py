"""The local edge, but its Workers reach every address, as on a plain account of Cloudflare's."""

from webhost_local.edge import config
from webhost_local.edge.__main__ import main

config._PUBLIC = 'allow = ["public", "private", "local"]'  # pyright: ignore[reportPrivateUsage]
main()
