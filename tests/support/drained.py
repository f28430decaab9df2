"""`python -m tests.support.drained`: a service that answers, and streams for a while, at LISTEN."""

import asyncio
import os
from typing import Any

from webhost_kit.process.service import Service

STREAM_S = 4.0
PIECES = 20
STREAM = "/v1/invoke/stream"


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    pieces = PIECES if scope["path"] == STREAM else 1
    for _ in range(pieces):
        await send({"type": "http.response.body", "body": b"piece;", "more_body": True})
        await asyncio.sleep(STREAM_S / PIECES if pieces > 1 else 0.002)
    await send({"type": "http.response.body", "body": b"end"})


async def main() -> None:
    service = Service("drained", drain_s=float(os.environ["DRAIN_S"]))
    service.serve(app, os.environ["LISTEN"])
    service.serve_operations(os.environ["OPS_LISTEN"])
    await service.run()


if __name__ == "__main__":
    asyncio.run(main())
