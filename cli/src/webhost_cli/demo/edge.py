"""What is on the edge, as Cloudflare's API lists it: an agent's scripts and routes."""

from typing import Any

import httpx
from webhost_contracts import ids
from webhost_local.state import Cloudflare

from webhost_cli.errors import CommandError


class Edge:
    """The Cloudflare account of the local stack. Must be closed."""

    def __init__(self, account: Cloudflare) -> None:
        self._account = account
        self._http = httpx.Client(
            base_url=account.api_base_url,
            headers={"Authorization": f"Bearer {account.api_token}"},
            timeout=10,
        )

    def __enter__(self) -> "Edge":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def scripts_of(self, agent_id: str) -> list[str]:
        """Names of the scripts that are an agent's: its id's suffix is in them."""
        workers = f"/accounts/{self._account.account_id}/workers"
        scripts = self._list(f"{workers}/scripts")
        for namespace in self._list(f"{workers}/dispatch/namespaces"):
            path = f"{workers}/dispatch/namespaces/{namespace['namespace_name']}/scripts"
            scripts += self._list(path)
        return sorted(s["id"] for s in scripts if ids.suffix(agent_id) in s["id"])

    def routes_of(self, deployment_ids: list[str]) -> list[str]:
        """Patterns of the routes that lead to these deployments."""
        routes = self._list(f"/zones/{self._account.zone_id}/workers/routes")
        patterns = [route["pattern"] for route in routes]
        return sorted(p for p in patterns if any(d in p for d in deployment_ids))

    def _list(self, path: str) -> list[dict[str, Any]]:
        try:
            answer = self._http.get(path)
        except httpx.TransportError as error:
            raise CommandError(f"no answer from the edge's API: {error}") from error
        if not answer.is_success:
            raise CommandError(f"the edge's API: HTTP {answer.status_code} {answer.text[:200]}")
        return answer.json()["result"]
