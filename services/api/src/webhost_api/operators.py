"""Who is an operator: routes for programs that operators run, with a token of theirs.

Guarantees: no JWT and no API key of a user's is good here, and an operator's token is none of a
user's; all that is not good looks the same. Only its hash is known here. A good token waits for
nobody; one that is not good costs its address. Each request is in the operators' log.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.routing import APIRoute
from webhost_kit.errors import BadToken
from webhost_kit.http.addresses import address_of
from webhost_kit.http.auth import bearer_of

from webhost_api.http import caller_known, deps_of

log = structlog.get_logger(__name__)

BEARER = """\
A token of an operator's (`who_…`), which `OPERATOR_TOKENS` names. Users' JWTs and API keys are not
accepted here, nor is this token where users' are."""


class OperatorRoute(APIRoute):
    """A route for operators: the caller is known before anything is parsed; nothing is read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with the check before it."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            operator = _authenticated(request)
            log.info("operator's request", operator=operator, path=request.url.path)
            return await handle(request)

        return checked


def _authenticated(request: Request) -> str:
    """Return the operator who calls. Raises BadToken or RateLimited."""
    token = bearer_of(request.headers.get("Authorization"))
    operator = deps_of(request).operators.operator_of(token or "")
    limits = deps_of(request).rate_limits
    if operator is None:
        limits.acquire_unknown_operator(address_of(request.scope))
        raise BadToken("Send an operator's token, which no user's token or API key is.")
    caller_known(request)
    limits.acquire("reads", f"operator:{operator}")
    return operator
