"""What a saga left at the edge, and what there is of others on every account."""

import secrets
from typing import Any

from webhost_deployer.cloudflare.addresses import (
    agent_script_name,
    dispatch_name,
    front_name,
    outbound_name,
    sessions_name,
)
from webhost_deployer.model import Phase

from tests.integration.deployer.harness import new_agent, new_deployment
from tests.integration.deployer.saga_cases import SECRET, Case, Ground


class Others:
    """Scripts and routes of the account's owner and of another installation, on each host."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._owners = f"owners-{secrets.token_hex(4)}"
        self._deployment = new_deployment()
        self._anothers = front_name(new_agent(), self._deployment)
        self._before: Any = None

    async def put(self) -> None:
        await self._upload(self._owners)
        await self._upload(self._anothers, "webhost", "installation-another")
        self._before = await self._scripts()
        assert len(self._before) == 2

    async def route(self, host: str) -> None:
        """Give them routes there: one below our paths, and one that has our own pattern."""
        for pattern, script in self._routes(host).items():
            await self._ground.api("POST", self._zone, json={"pattern": pattern, "script": script})

    def patterns(self, host: str) -> set[str]:
        return {*self._routes(host)}

    async def check(self) -> None:
        """Nobody changed them."""
        assert await self._scripts() == self._before

    @property
    def _zone(self) -> str:
        return f"/zones/{self._ground.edge.zone_id}/workers/routes"

    def _routes(self, host: str) -> dict[str, str]:
        return {
            f"{host}/dep/elsewhere/*": self._owners,
            f"{host}/dep/{self._deployment}/*": self._anothers,
        }

    async def _scripts(self) -> Any:
        listed = await self._ground.api("GET", self._ground.scripts_path(None))
        return [it for it in listed if it["id"] in (self._owners, self._anothers)]

    async def _upload(self, name: str, *tags: str) -> None:
        await self._ground.edge.upload(
            name, "export default { fetch: () => new Response('mine') };", tags=list(tags)
        )


async def check_what_is_left(case: Case, others: Others, phase: Phase) -> None:
    """Of the deployment there is all or nothing, and of others what was there before."""
    ground, dep = case.ground, case.deployment_id
    agent_script = agent_script_name(case.agent_id, dep)
    scripts, routes = {agent_script}, set[str]()
    own = {f"{case.line.host}/dep/*", f"{case.line.host}/__webhost/sessions/*"}
    if case.namespace is None:
        scripts.add(front_name(case.agent_id, dep))
        if not ground.on_workers_dev:
            routes.add(f"{case.line.host}/dep/{dep}/*")
    if phase is not Phase.LIVE:
        scripts.clear()
        routes.clear()
    assert await ground.scripts(f"deployment-{dep}", case.namespace) == scripts
    if phase is Phase.LIVE:
        bound = await ground.api(
            "GET", f"{ground.scripts_path(case.namespace)}/{agent_script}/secrets"
        )
        assert [it["name"] for it in bound] == ([SECRET] if case.secrets_version else [])
    assert await ground.routes(case.line.host) - own == routes | others.patterns(case.line.host)


async def clean(case: Case) -> None:
    """Remove all that is left of the case, also of the installation where nobody else uses it."""
    ground = case.ground
    zone = f"/zones/{ground.edge.zone_id}/workers/routes"
    for route in await ground.api("GET", zone):
        if route["pattern"].startswith(f"{case.line.host}/"):
            await ground.api("DELETE", f"{zone}/{route['id']}")
    front, code = (
        name(case.agent_id, case.deployment_id) for name in (front_name, agent_script_name)
    )
    names = [(None, front), (case.namespace, code)]
    if (installation := case.installation_id) != ground.installation_id:
        own = (dispatch_name, outbound_name, sessions_name)
        names += [(None, name(installation)) for name in own]
    for namespace, name in names:
        path = f"{ground.scripts_path(namespace)}/{name}"
        await ground.api("DELETE", path, params={"force": "true"})
