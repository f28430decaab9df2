"""Agents by id or by name."""

from webhost_contracts import ids

from webhost_cli.client import Api, Json
from webhost_cli.errors import CommandError, ExitCode


def find_agent(api: Api, agent: str) -> Json:
    """The agent with this id, or with this name (unique among a user's agents)."""
    if ids.has_prefix(agent, ids.AGENT):
        return api.get(f"/v1/agents/{agent}")["agent"]
    for found in api.pages("/v1/agents", "agents"):
        if found["name"] == agent:
            return found
    raise CommandError(f"no agent is called {agent!r}", ExitCode.NOT_FOUND)


def agent_id(api: Api, agent: str) -> str:
    """The id of an agent that is given by id or by name; an id is not looked up."""
    return agent if ids.has_prefix(agent, ids.AGENT) else find_agent(api, agent)["id"]


def deployment_id(api: Api, agent: str, deployment: str) -> str:
    """The id of an agent's deployment that is given by id or by version (`3`, `v3`)."""
    if ids.has_prefix(deployment, ids.DEPLOYMENT):
        return deployment
    version = deployment.removeprefix("v")
    if not version.isdecimal():
        message = f"neither a deployment's id nor a version: {deployment!r}"
        raise CommandError(message, ExitCode.USAGE)
    for found in api.pages(f"/v1/agents/{agent}/deployments", "deployments"):
        if found["version"] == int(version):
            return found["id"]
    raise CommandError(f"the agent has no version {version}", ExitCode.NOT_FOUND)


def deployment_path(api: Api, deployment: str) -> str:
    """The API's path of a deployment that is given by id, or as AGENT/VERSION."""
    agent, slash, version = deployment.rpartition("/")
    found = deployment_id(api, agent_id(api, agent), version) if slash else deployment
    return f"/v1/deployments/{found}"
