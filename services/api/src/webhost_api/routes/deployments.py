"""The doors to deployments, their source and the pointer."""

from fastapi import APIRouter, Response
from sqlalchemy.ext.asyncio import AsyncConnection
from webhost_contracts import ids
from webhost_contracts.artifacts import Bundle, Module
from webhost_kit.crashpoints import crash_point

from webhost_api import handlers, queries, templates
from webhost_api.artifacts import pack
from webhost_api.bodies import ActivateBody, DeployBody
from webhost_api.decisions import RequestDeployment
from webhost_api.http import (
    AgentId,
    Cursor,
    DeploymentId,
    DeployRoute,
    Limit,
    TheCaller,
    TheHouse,
    TheKey,
    UserRoute,
    answered,
    decide,
)
from webhost_api.idempotency import id_for
from webhost_api.model import DeploymentStatus
from webhost_api.shapes.agents import agent_shape
from webhost_api.shapes.deployments import (
    ActivatedAnswer,
    DeploymentAnswer,
    DeploymentsAnswer,
    ModuleShape,
    SourceAnswer,
    TemplatesAnswer,
    TemplateShape,
    deployment_shape,
)

COMPATIBILITY_DATE = "2026-01-01"
MAIN_MODULE_NAME = "agent.mjs"
INVOKE_PATH = "/invoke"

router = APIRouter(tags=["deployments"], route_class=UserRoute)
deploy_router = APIRouter(tags=["deployments"], route_class=DeployRoute)


@deploy_router.post("/v1/agents/{agentId}/deploy", status_code=202, response_model=DeploymentAnswer)
@deploy_router.post(
    "/v1/agents/{agentId}/deployments",
    status_code=202,
    response_model=DeploymentAnswer,
    name="create_deployment",
)
async def deploy(
    house: TheHouse,
    caller: TheCaller,
    key: TheKey,
    agent_id: AgentId,
    body: DeployBody | None = None,
) -> Response:
    """Deploy the module, or without one the built-in template."""
    wanted = body or DeployBody()
    main_module_name = wanted.main_module_name or MAIN_MODULE_NAME
    code = wanted.module_code or templates.load(templates.DEFAULT)
    artifact, bundle = pack(Bundle(modules=(Module(name=main_module_name, content=code),)))
    command = RequestDeployment(
        deployment_id=id_for(key, ids.DEPLOYMENT, caller.circumstances.at_ms),
        artifact=artifact,
        main_module_name=main_module_name,
        invoke_path=wanted.invoke_path or INVOKE_PATH,
        compatibility_date=wanted.compatibility_date or COMPATIBILITY_DATE,
        set_as_active=wanted.set_as_active is not False,
        runtime_provider=wanted.runtime_provider,
        commit_hash=wanted.commit_hash,
    )

    async def work(connection: AsyncConnection) -> DeploymentAnswer:
        deployment = await handlers.request_deployment(
            connection, caller, house.tiers, agent_id, command
        )
        # What is refused is not stored, and nothing is agreed to before it is.
        await house.artifacts.put(artifact, bundle)
        return DeploymentAnswer(deployment=deployment_shape(deployment))

    response = await decide(house, key, work, status=202)
    crash_point("api.deploy_requested")
    return response


@router.get("/v1/agents/{agentId}/deployments", response_model=DeploymentsAnswer)
async def list_deployments(
    house: TheHouse,
    caller: TheCaller,
    agent_id: AgentId,
    limit: Limit = queries.DEFAULT_LIMIT,
    cursor: Cursor = None,
    status: DeploymentStatus | None = None,
) -> Response:
    """An agent's deployments, newest first."""
    page = queries.Page.asked(limit, cursor)
    async with house.database.transaction() as connection:
        await queries.agent(connection, caller.user_id, agent_id)
        found, following = await queries.list_deployments(connection, agent_id, page, status=status)
    return answered(
        DeploymentsAnswer(deployments=[*map(deployment_shape, found)], next_cursor=following)
    )


@router.post(
    "/v1/agents/{agentId}/deployments/{deploymentId}/activate", response_model=ActivatedAnswer
)
async def activate(
    house: TheHouse,
    caller: TheCaller,
    key: TheKey,
    agent_id: AgentId,
    deployment_id: DeploymentId,
    body: ActivateBody | None = None,
) -> Response:
    """Point the agent at a deployment that is there already: this is rollback."""
    reason = None if body is None else body.reason

    async def work(connection: AsyncConnection) -> ActivatedAnswer:
        agent, deployment = await handlers.activate(
            connection, caller, agent_id, deployment_id, reason
        )
        return ActivatedAnswer(agent=agent_shape(agent), deployment=deployment_shape(deployment))

    return await decide(house, key, work)


@router.get("/v1/deployments/{deploymentId}", response_model=DeploymentAnswer)
async def get_deployment(
    house: TheHouse, caller: TheCaller, deployment_id: DeploymentId
) -> Response:
    """One deployment, also of an agent that was deleted."""
    async with house.database.transaction() as connection:
        deployment = await queries.deployment(connection, caller.user_id, deployment_id)
    return answered(DeploymentAnswer(deployment=deployment_shape(deployment)))


@router.get("/v1/deployments/{deploymentId}/source", response_model=SourceAnswer)
async def get_source(house: TheHouse, caller: TheCaller, deployment_id: DeploymentId) -> Response:
    """The modules that were deployed."""
    async with house.database.transaction() as connection:
        deployment = await queries.deployment(connection, caller.user_id, deployment_id)
    bundle = await house.artifacts.read(deployment.artifact)
    modules = [ModuleShape(name=m.name, content=m.content) for m in bundle.modules]
    return answered(SourceAnswer(modules=modules))


@router.get("/v1/templates", response_model=TemplatesAnswer)
async def list_templates() -> Response:
    """The built-in templates."""
    return answered(
        TemplatesAnswer(
            templates=[
                TemplateShape(
                    name=template.name,
                    description=template.description,
                    module_code=templates.load(template.name),
                )
                for template in templates.TEMPLATES
            ]
        )
    )
