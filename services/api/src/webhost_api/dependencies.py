"""What a route's handler is given of a request.

All are coroutines: FastAPI runs a plain function in a thread of its own, which takes longer than
all that is done here.
"""

from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from webhost_contracts import ids, periods
from webhost_kit.http.idempotency import KEY_PATTERN

from webhost_api.handlers import Caller, agent_not_found, deployment_not_found
from webhost_api.http import Dependencies, caller_of, deps_of
from webhost_api.idempotency import IdempotencyKey
from webhost_api.keys.handlers import key_not_found


async def deps(request: Request) -> Dependencies:
    """Return what the routes work with."""
    return deps_of(request)


async def caller(request: Request) -> Caller:
    """Return the caller that the route authenticated."""
    return caller_of(request)


async def agent_id(agent_id: Annotated[str, Path(alias="agentId")]) -> str:
    """Return an agent's id from the path. Raises NotFound where it is not one."""
    if not ids.has_prefix(agent_id, ids.AGENT):
        raise agent_not_found()
    return agent_id


async def deployment_id(deployment_id: Annotated[str, Path(alias="deploymentId")]) -> str:
    """Return a deployment's id from the path. Raises NotFound where it is not one."""
    if not ids.has_prefix(deployment_id, ids.DEPLOYMENT):
        raise deployment_not_found()
    return deployment_id


async def key_id(key_id: Annotated[str, Path(alias="keyId")]) -> str:
    """Return an API key's id from the path. Raises NotFound where it is not one."""
    if not ids.has_prefix(key_id, ids.KEY):
        raise key_not_found()
    return key_id


Deps = Annotated[Dependencies, Depends(deps)]
CurrentCaller = Annotated[Caller, Depends(caller)]
Limit = Annotated[int, Query(description="1 to 100; other values are clamped.")]
Cursor = Annotated[str | None, Query(description="The `nextCursor` of the previous page.")]
Period = Annotated[
    str | None,
    Query(pattern=periods.PATTERN, description="YYYY-MM, of 2000 to 2099; absent: the one now."),
]
AgentId = Annotated[str, Depends(agent_id)]
DeploymentId = Annotated[str, Depends(deployment_id)]
KeyId = Annotated[str, Depends(key_id)]


async def key_of(
    request: Request,
    deps: Deps,
    caller: CurrentCaller,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Makes a repeated request return the first response again.",
            json_schema_extra={"pattern": KEY_PATTERN},
        ),
    ] = None,
) -> IdempotencyKey | None:
    """Return the request's idempotency key. Raises InvalidRequest."""
    if idempotency_key is None:
        return None
    return IdempotencyKey.of(
        idempotency_key,
        user_id=caller.user_id,
        route=f"{request.method} {request.scope['route'].path}",
        method=request.method,
        path=request.url.path,
        body=await request.body(),
        keys=deps.response_keys,
    )


RequestKey = Annotated[IdempotencyKey | None, Depends(key_of)]
