"""A Worker, as seen from outside: verifies the signature and answers as the test tells it to."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Behaviour = Callable[["Call"], Awaitable[None]]


@dataclass
class Call:
    """One call that arrived, and how to answer it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    receive: Any
    send: Any

    async def start(self, status: int = 200, kind: str = "application/json") -> None:
        headers = [(b"content-type", kind.encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, text: str | bytes, *, more: bool = True) -> None:
        body = text.encode() if isinstance(text, str) else text
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def event(self, name: str, data: Any) -> None:
        await self.write(f"event: {name}\ndata: {msgspec.json.encode(data).decode()}\n\n")

    async def answer(self, body: Any, status: int = 200) -> None:
        await self.start(status)
        await self.write(msgspec.json.encode(body), more=False)

    async def meta(self) -> None:
        await self.start(kind="text/event-stream")
        await self.event("meta", {"sessionId": self.session_id})

    async def gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    @property
    def session_id(self) -> str:
        return self.body.get("sessionId", "ses_new")

    @property
    def text(self) -> str:
        return "You said: " + self.body["input"]["messages"][-1]["content"]


async def echo(call: Call) -> None:
    """Answer as the built-in template does."""
    if call.headers["accept"] == "text/event-stream":
        await call.meta()
        for word in call.text.split(" "):
            await call.event("delta", {"text": word})
        await call.event("usage", {"tokens": 3})
        await call.event("done", {})
        await call.write("", more=False)
        return
    await call.answer(
        {
            "protocol": "invoke/v1",
            "traceId": call.body["traceId"],
            "sessionId": call.session_id,
            "output": {"text": call.text},
            "usage": {"tokens": 3},
        }
    )


class Worker:
    """An ASGI application. `calls` are the signed ones, as they arrived."""

    def __init__(self, public_key: Ed25519PublicKey) -> None:
        self.public_key = public_key
        self.behaviour: Behaviour = echo
        self.calls: list[Call] = []
        self.abandoned = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self._verify(headers["x-webhost-invoke-signature"], scope["path"], body)
        call = Call(scope["path"], headers, msgspec.json.decode(body), receive, send)
        self.calls.append(call)
        await self.behaviour(call)

    def _verify(self, header: str, path: str, body: bytes) -> None:
        match = re.fullmatch(r"t=(\d+),kid=([^,]+),v1=([0-9a-f]+)", header)
        deployment_id = path.split("/")[2]
        signed = f"{match[1]}.{deployment_id}.".encode() + body
        self.public_key.verify(bytes.fromhex(match[3]), signed)
