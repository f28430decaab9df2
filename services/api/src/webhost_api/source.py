"""Answers with the source of a deployment, which can be large and slow to be taken.

Guarantees: what is held of all such answers is bounded, and of one user's, until they have been
taken or their connections have ended; small ones need no room.
"""

from contextlib import AsyncExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from webhost_contracts.artifacts import Artifact
from webhost_kit.http.bodies import Bodies
from webhost_kit.http.problems import JSON_TYPE

from webhost_api.artifacts import Artifacts
from webhost_api.bundles import MAX_ARTIFACT_BYTES

CHUNK_BYTES = 256 * 1024


def room() -> Bodies:
    """Return the room for the answers of one process."""
    return Bodies(
        MAX_ARTIFACT_BYTES,
        2 * MAX_ARTIFACT_BYTES,
        "Too much source is being read; try again shortly.",
    )


async def answer(artifacts: Artifacts, sources: Bodies, user_id: str, of: Artifact) -> Response:
    """Return the modules of a bundle, which are stored as the JSON that they are answered in.

    Raises Unavailable, and as `Artifacts.read` does.
    """
    async with AsyncExitStack() as held:
        await held.enter_async_context(sources.reserve(user_id, of.size_bytes))
        body = await artifacts.read(of)
        return _Held(body, held.pop_all())


class _Held(Response):
    """An answer whose memory others may have once it was taken."""

    def __init__(self, body: bytes, held: AsyncExitStack) -> None:
        super().__init__(body, media_type=JSON_TYPE)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, as fast as it is taken."""
        body = memoryview(self.body)
        async with self._held:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            for at in range(0, len(body), CHUNK_BYTES):
                chunk = bytes(body[at : at + CHUNK_BYTES])
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
