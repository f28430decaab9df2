"""The Cloudflare account of a running stack: what is on the edge, as its API tells."""

from typing import Any

import httpx
from webhost_contracts import ids

from tests.support.stack import Stack


class Account:
    """Scripts and routes of agents, without the platform's own session Worker. To be closed."""

    def __init__(self, stack: Stack) -> None:
        self._known = stack.status()["cloudflare"]
        self._http = httpx.Client(
            base_url=self._known["apiBaseUrl"],
            headers={"Authorization": f"Bearer {self._known['apiToken']}"},
            timeout=10,
        )

    def close(self) -> None:
        self._http.close()

    def scripts(self) -> set[str]:
        """Names of all deployments' scripts."""
        listed = self._list(f"/accounts/{self._known['accountId']}/workers/scripts")
        return {script["id"] for script in listed if "sessions" not in script["id"]}

    def routes(self) -> set[str]:
        """Deployment ids that a route leads to."""
        listed = self._list(f"/zones/{self._known['zoneId']}/workers/routes")
        patterns = [route["pattern"] for route in listed]
        return {pattern.split("/")[-2] for pattern in patterns if "/dep/" in pattern}

    def _list(self, path: str) -> list[dict[str, Any]]:
        answer = self._http.get(path)
        answer.raise_for_status()
        return answer.json()["result"]


def script_name(agent_id: str, deployment_id: str) -> str:
    """What a deployment's script is called."""
    return f"whs-{ids.suffix(agent_id)}-{ids.suffix(deployment_id)}"
