"""How failures are answered: each in the error envelope, the framework's own included."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Receive, Scope, Send
from webhost_kit.errors import InvalidRequest, MethodNotAllowed, NotFound, Problem
from webhost_kit.http import problems

from webhost_api.middleware import problem_response

MAX_ISSUES = 20
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def handle_problems(app: FastAPI) -> None:
    """Let every failure, the framework's own included, be answered with the error envelope."""

    async def on_problem(request: Request, error: Exception) -> Response:
        response = problem_response(_problem_of(error), request.headers[problems.REQUEST_ID_HEADER])
        if response.status_code == 405:
            response.headers["Allow"] = ", ".join(_methods_of(app, request.scope))
        return response

    async def on_gone(_request: Request, _error: Exception) -> Response:
        return _ToNobody()

    app.add_exception_handler(ClientDisconnect, on_gone)
    for kind in (Problem, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, on_problem)


class _ToNobody(Response):
    """What a client is answered that went away before its request was whole: nothing. It is counted
    as `gone`, and no fault of ours; anybody can do it as often as they like, so nothing is logged.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing."""


def _methods_of(app: FastAPI, scope: Scope) -> list[str]:
    """Return what the path of this request can be asked, by whichever route."""
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.routes)
    ]


def _problem_of(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case RequestValidationError():
            issues = [_issue_of(found) for found in error.errors()[:MAX_ISSUES]]
            return InvalidRequest("The request is not valid.", details={"issues": issues})
        case HTTPException(status_code=404):
            return NotFound("Nothing is served at this path.")
        case HTTPException(status_code=405):
            return MethodNotAllowed("This method is not allowed at this path.")
        case HTTPException(status_code=400):
            return InvalidRequest.at([], "The body cannot be read.")
        case _:
            return problems.internal()


def _issue_of(found: dict[str, Any]) -> dict[str, Any]:
    # The first part of the location is `body`, `query` or `header`; if the body is not JSON, the
    # rest is not a path.
    path = [] if found["type"] == "json_invalid" else list(found["loc"][1:])
    return {"path": path, "message": str(found["msg"]).removeprefix("Value error, ")}
