"""Names at Cloudflare and addresses of what runs there. Pure."""

import re
from dataclasses import dataclass

from webhost_contracts import ids

PROBE_PATH = "/__webhost/probe"
PURGE_PATH = "/__webhost/sessions/purge"


def front_name(agent_id: str, deployment_id: str) -> str:
    """Return the name of a deployment's front: 57 characters of `[a-z0-9-]`."""
    return f"whs-{ids.suffix(agent_id)}-{ids.suffix(deployment_id)}"


def agent_script_name(agent_id: str, deployment_id: str) -> str:
    """Return the name of a deployment's agent script: 62 characters of `[a-z0-9-]`."""
    return f"{front_name(agent_id, deployment_id)}-code"


def sessions_name(installation_id: str) -> str:
    """Return the script name of the installation's session Worker, at most 63 characters."""
    return _installation_name("sessions", installation_id)


def dispatch_name(installation_id: str) -> str:
    """Return the script name of the installation's dispatch Worker, at most 63 characters."""
    return _installation_name("dispatch", installation_id)


def outbound_name(installation_id: str) -> str:
    """Return the script name of the installation's outbound Worker, at most 63 characters."""
    return _installation_name("outbound", installation_id)


def _installation_name(what: str, installation_id: str) -> str:
    suffix = re.sub(r"[^a-z0-9-]", "-", ids.suffix(installation_id).lower())
    return f"whs-{what}-{suffix}"[:63]


def agent_of(script: str, deployment_id: str) -> str | None:
    """Return the agent in a script's name, where it is the name of this deployment's front."""
    found = re.fullmatch(rf"whs-([0-9a-z]{{26}})-{re.escape(ids.suffix(deployment_id))}", script)
    return None if found is None else f"{ids.AGENT}_{found[1]}"


@dataclass(frozen=True)
class CustomDomain:
    """All Workers behind one host of a zone, by routes."""

    host: str
    zone_id: str

    def deployment_url(self, agent_id: str, deployment_id: str) -> str:
        """Return what a deployment's paths are appended to."""
        return f"https://{self.host}/dep/{deployment_id}"

    def deployment_pattern(self, deployment_id: str) -> str:
        """Return the pattern of a deployment's route."""
        return f"{self.host}/dep/{deployment_id}/*"

    def deployment_of(self, pattern: str) -> str | None:
        """Return the deployment whose route has this pattern, None where it is not of ours."""
        found = re.fullmatch(rf"{re.escape(self.host)}/dep/([^/]+)/\*", pattern)
        if found is None or not ids.has_prefix(found[1], ids.DEPLOYMENT):
            return None
        return found[1]

    def dispatched_url(self, installation_id: str, deployment_id: str) -> str:
        """Return what a deployment's paths are appended to, behind the dispatch Worker."""
        return f"https://{self.host}/dep/{deployment_id}"

    def sessions_url(self, installation_id: str) -> str:
        """Return what the session Worker's paths are appended to."""
        return f"https://{self.host}"

    @property
    def dispatch_pattern(self) -> str:
        """Return the pattern of the dispatch Worker's route; a deployment's own comes first."""
        return f"{self.host}/dep/*"

    @property
    def sessions_pattern(self) -> str:
        """Return the pattern of the session Worker's route."""
        return f"{self.host}/__webhost/sessions/*"


@dataclass(frozen=True)
class WorkersDev:
    """Every Worker at a host of its own below the account's workers.dev subdomain."""

    subdomain: str

    def deployment_url(self, agent_id: str, deployment_id: str) -> str:
        """Return what a deployment's paths are appended to."""
        return self._url(front_name(agent_id, deployment_id))

    def dispatched_url(self, installation_id: str, deployment_id: str) -> str:
        """Return what a deployment's paths are appended to, behind the dispatch Worker."""
        return f"{self._url(dispatch_name(installation_id))}/dep/{deployment_id}"

    def sessions_url(self, installation_id: str) -> str:
        """Return what the session Worker's paths are appended to."""
        return self._url(sessions_name(installation_id))

    def _url(self, script: str) -> str:
        return f"https://{script}.{self.subdomain}.workers.dev"


Routing = CustomDomain | WorkersDev
