"""Deployments, their source and the pointer."""

from fastapi import APIRouter, Response
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids
from webhost_contracts.artifacts import Bundle, Module
from webhost_contracts.errors import ErrorCode
from webhost_kit.errors import InvalidRequest
from webhost_kit.process.crashpoints import crash_point

from webhost_api import handlers, idempotency, queries, source, templates, uploads
from webhost_api.artifacts import pack
from webhost_api.decisions import RequestDeployment
from webhost_api.dependencies import (
    AgentId,
    CurrentCaller,
    Cursor,
    DeploymentId,
    Deps,
    Limit,
    RequestKey,
)
from webhost_api.handlers import Caller
from webhost_api.http import DeployRoute, PointerRoute, UserRoute, answered, execute, first_response
from webhost_api.keys.access import open_to_limited
from webhost_api.model import DeploymentStatus
from webhost_api.openapi_responses import refusals
from webhost_api.schemas.deployments import (
    ActivatedResponse,
    DeploymentResponse,
    DeploymentsResponse,
    SourceResponse,
    TemplateSchema,
    TemplatesResponse,
)
from webhost_api.schemas.requests import ActivateBody, DeployBody

CONFLICT = refusals(ErrorCode.CONFLICT)
DEPLOYED = refusals(ErrorCode.CONFLICT, ErrorCode.LIMIT_EXCEEDED)

router = APIRouter(tags=["deployments"], route_class=UserRoute)
deploy_router = APIRouter(tags=["deployments"], route_class=DeployRoute)
pointer_router = APIRouter(tags=["deployments"], route_class=PointerRoute)


@deploy_router.post(
    "/v1/agents/{agentId}/deploy",
    status_code=202,
    response_model=DeploymentResponse,
    responses=DEPLOYED,
)
@deploy_router.post(
    "/v1/agents/{agentId}/deployments",
    status_code=202,
    response_model=DeploymentResponse,
    responses=DEPLOYED,
    name="create_deployment",
)
async def deploy(
    deps: Deps,
    caller: CurrentCaller,
    key: RequestKey,
    agent_id: AgentId,
    body: DeployBody | None = None,
) -> Response:
    """Deploy the module or the upload, or without either the built-in template."""
    body = body or DeployBody()
    if body.module_code is not None and body.upload_id is not None:
        raise InvalidRequest.at(["uploadId"], "Give moduleCode or uploadId, not both.")
    deployment_id = await idempotency.id_for(
        deps.database, deps.tiers, key, ids.DEPLOYMENT, caller.metadata.at_ms
    )

    # Refused code is not stored. Accepted code is, before the transaction: a slow store then holds
    # up neither a connection nor the agent's lock. The transaction decides again.
    async with deps.database.snapshot() as connection:
        if (response := await first_response(connection, key)) is not None:
            return response
        command, bundle = await _requested(connection, caller, deployment_id, body)
        await handlers.check_deployment(connection, caller, deps.tiers, agent_id, command)
    if bundle is not None:
        await deps.artifacts.put(command.artifact, bundle)
    elif not await deps.artifacts.keep(command.artifact):
        raise uploads.upload_not_found()

    async def work(connection: AsyncConnection) -> DeploymentResponse:
        deployment = await handlers.request_deployment(
            connection, caller, deps.tiers, deps.commands, agent_id, command
        )
        return DeploymentResponse.model_validate({"deployment": deployment})

    response = await execute(deps, key, work, status=202)
    crash_point("api.deploy_requested")
    return response


async def _requested(
    connection: AsyncConnection, caller: Caller, deployment_id: str, body: DeployBody
) -> tuple[RequestDeployment, bytes | None]:
    """Return what is to be deployed, and its bytes where they may not be stored yet.

    Raises NotFound, or InvalidRequest where the upload has no such main module.
    """
    fields = body.model_dump(exclude_none=True, exclude={"module_code", "upload_id"})
    if body.upload_id is not None:
        upload = await uploads.find(connection, caller.user_id, body.upload_id)
        main = fields.setdefault("main_module_name", upload.manifest.entrypoint)
        if main not in upload.module_names:
            raise InvalidRequest.at(
                ["mainModuleName"], "The upload has no module of this name; name one that it has."
            )
        env = upload.manifest.env
        fields |= {
            "required_keys": tuple(env.required_keys),
            "optional_keys": tuple(env.optional_keys),
        }
        artifact, bundle = upload.artifact, None
    else:
        code = body.module_code or templates.load(templates.DEFAULT)
        name = fields.setdefault("main_module_name", templates.MAIN_MODULE_NAME)
        artifact, bundle = pack(Bundle(modules=(Module(name=name, content=code),)))
    return RequestDeployment(deployment_id=deployment_id, artifact=artifact, **fields), bundle


@router.get("/v1/agents/{agentId}/deployments", response_model=DeploymentsResponse)
async def list_deployments(
    deps: Deps,
    caller: CurrentCaller,
    agent_id: AgentId,
    limit: Limit = queries.DEFAULT_LIMIT,
    cursor: Cursor = None,
    status: DeploymentStatus | None = None,
) -> Response:
    """An agent's deployments, newest first."""
    page = queries.Page.requested(limit, cursor)
    async with deps.database.transaction() as connection:
        await queries.agent(connection, caller.user_id, agent_id)
        found, following = await queries.list_deployments(connection, agent_id, page, status=status)
    page_of_deployments = {"deployments": found, "next_cursor": following}
    return answered(DeploymentsResponse.model_validate(page_of_deployments))


@pointer_router.post(
    "/v1/agents/{agentId}/deployments/{deploymentId}/activate",
    response_model=ActivatedResponse,
    responses=CONFLICT,
)
async def activate(
    deps: Deps,
    caller: CurrentCaller,
    key: RequestKey,
    agent_id: AgentId,
    deployment_id: DeploymentId,
    body: ActivateBody | None = None,
) -> Response:
    """Point the agent at an existing deployment, as for a rollback."""
    reason = None if body is None else body.reason

    async def work(connection: AsyncConnection) -> ActivatedResponse:
        agent, deployment = await handlers.activate(
            connection, caller, deps.tiers, agent_id, deployment_id, reason
        )
        return ActivatedResponse.model_validate({"agent": agent, "deployment": deployment})

    return await execute(deps, key, work)


@router.get("/v1/deployments/{deploymentId}", response_model=DeploymentResponse)
async def get_deployment(
    deps: Deps, caller: CurrentCaller, deployment_id: DeploymentId
) -> Response:
    """One deployment, also of an agent that was deleted."""
    async with deps.database.transaction() as connection:
        deployment = await queries.deployment(connection, caller.user_id, deployment_id)
    return answered(DeploymentResponse.model_validate({"deployment": deployment}))


@router.get("/v1/deployments/{deploymentId}/source", response_model=SourceResponse)
async def get_source(deps: Deps, caller: CurrentCaller, deployment_id: DeploymentId) -> Response:
    """The modules that were deployed."""
    async with deps.database.transaction() as connection:
        deployment = await queries.deployment(connection, caller.user_id, deployment_id)
    return await source.answer(deps.artifacts, deps.sources, caller.user_id, deployment.artifact)


@router.get("/v1/templates", response_model=TemplatesResponse)
@open_to_limited
async def list_templates() -> Response:
    """The built-in templates."""
    return answered(
        TemplatesResponse(
            templates=[
                TemplateSchema(
                    name=template.name,
                    description=template.description,
                    module_code=templates.load(template.name),
                )
                for template in templates.TEMPLATES
            ]
        )
    )
