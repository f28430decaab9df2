"""The HTTP endpoints, raw ASGI: paths, CORS, and the answers to failures.

Guarantees: see `webhost_kit.http.asgi`; answers to browsers of the allowed origins carry the CORS
headers, errors too, those of delegated calls aside.
"""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from webhost_kit.errors import MethodNotAllowed, NotFound, Problem
from webhost_kit.http.asgi import ClientGone, Receive, Send
from webhost_kit.http.measured import measure

from webhost_gateway import spans
from webhost_gateway.request import Request

PREFIX = "/v1/invoke/"
STREAM_SUFFIX = "/stream"
DELEGATED_PREFIX = "/v1/delegated/invoke/"

_INVOKE = f"{PREFIX}{{agentId}}"
_STREAM = f"{_INVOKE}{STREAM_SUFFIX}"
_DELEGATED = f"{DELEGATED_PREFIX}{{agentId}}"

Handler = Callable[[Request], Awaitable[None]]


class InvokeApp:
    """The ASGI application."""

    def __init__(
        self, *, invoke: Handler, stream: Handler, delegated: Handler, origins: tuple[str, ...]
    ) -> None:
        self._invoke = invoke
        self._stream = stream
        self._delegated = delegated
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        began_s = monotonic()
        is_delegated = scope["path"].startswith(DELEGATED_PREFIX)
        # No browser calls for others.
        origins = frozenset[bytes]() if is_delegated else self._origins
        request = Request(scope, receive, send, origins)
        with spans.of_request(request, scope["method"]):
            try:
                if is_delegated:
                    await self._answer_delegated(request, scope["method"], scope["path"])
                else:
                    await self._answer(request, scope["method"], scope["path"])
            except ClientGone:
                return
            except MethodNotAllowed as problem:
                allowed = "POST" if is_delegated else "POST, OPTIONS"
                await request.refuse(problem, {"Allow": allowed})
            except Problem as problem:
                spans.refused(request, problem)
                await request.refuse(problem)
            except Exception as error:
                await request.refuse_unexpected(error)
            finally:
                measure(scope["method"], request.route, request.status, monotonic() - began_s)
            spans.answered(request)

    async def _answer(self, request: Request, method: str, path: str) -> None:
        handler = self._invoke
        agent_id = path.removeprefix(PREFIX)
        if agent_id.endswith(STREAM_SUFFIX):
            agent_id = agent_id.removesuffix(STREAM_SUFFIX)
            handler = self._stream
        if not path.startswith(PREFIX) or not agent_id or "/" in agent_id:
            raise NotFound("There is no such address.")
        request.route = _INVOKE if handler is self._invoke else _STREAM
        if method == "OPTIONS":
            await request.preflight()
        elif method != "POST":
            raise MethodNotAllowed("Only POST is allowed here.")
        else:
            request.agent_id = agent_id
            await handler(request)

    async def _answer_delegated(self, request: Request, method: str, path: str) -> None:
        agent_id = path.removeprefix(DELEGATED_PREFIX)
        if not agent_id or "/" in agent_id:
            raise NotFound("There is no such address.")
        request.route = _DELEGATED
        if method != "POST":
            raise MethodNotAllowed("Only POST is allowed here.")
        request.agent_id = agent_id
        await self._delegated(request)
