"""`python -m webhost_local.lemonsqueezy`: runs the store until a signal comes.

STORE_LISTEN, STORE_DATA_DIR, STORE_API_KEY, STORE_WEBHOOK_URL, STORE_WEBHOOK_SECRET;
STORE_RETRY_S?: after how many seconds a delivery is tried again, with commas between them.
In a container, whose port is published on loopback: CONTAINER_NAMES, by which other containers call
it, and STORE_URL, under which browsers reach it.
"""

import asyncio
import logging
import os
import sys
from pathlib import Path

import httpx
import uvicorn

from webhost_local.lemonsqueezy.app import build
from webhost_local.lemonsqueezy.shop import Shop
from webhost_local.lemonsqueezy.store import Store
from webhost_local.lemonsqueezy.webhooks import RETRY_S, Webhooks, posting_to
from webhost_local.listening import container_names, may_listen

_NEEDED = ("LISTEN", "DATA_DIR", "API_KEY", "WEBHOOK_URL", "WEBHOOK_SECRET")


def main() -> None:
    missing = [f"STORE_{name}" for name in _NEEDED if not os.environ.get(f"STORE_{name}")]
    if missing:
        sys.exit(f"lemonsqueezy: missing {', '.join(missing)}")
    host, _, port = os.environ["STORE_LISTEN"].rpartition(":")
    if not may_listen(host):
        sys.exit(
            f"lemonsqueezy: refuses to listen on {host}: whoever reaches it gets every tier for "
            "nothing, so it is for this machine alone"
        )
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
    for noisy in ("uvicorn", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    asyncio.run(_run(host, int(port)))


async def _run(host: str, port: int) -> None:
    store = Store(Path(os.environ["STORE_DATA_DIR"]) / "store.json")
    async with httpx.AsyncClient(trust_env=False) as client:
        webhooks = Webhooks(
            posting_to(os.environ["STORE_WEBHOOK_URL"], client),
            os.environ["STORE_WEBHOOK_SECRET"].encode(),
            _retry_s(),
        )
        shop = Shop(store, webhooks, os.environ.get("STORE_URL") or f"http://{host}:{port}")
        app = build(shop, os.environ["STORE_API_KEY"], hosts=container_names())
        config = uvicorn.Config(
            app, host=host, port=port, log_level="warning", server_header=False, lifespan="off"
        )
        await uvicorn.Server(config).serve()
        await webhooks.close()


def _retry_s() -> tuple[float, ...]:
    given = os.environ.get("STORE_RETRY_S")
    return RETRY_S if not given else tuple(float(part) for part in given.split(","))


if __name__ == "__main__":
    main()
