"""Requests between services and their replies, with a short timeout.

When the other service is away, only that request is answered UNAVAILABLE; the rest keeps working.
"""

from typing import Literal

from webhost_contracts.wire import Wire


class SetTierRequest(Wire, frozen=True, kw_only=True):
    """An operator puts a user on a tier, as `webhost users set-tier` asks for it."""

    user_id: str
    tier: str
    operator: str


class SetTierReply(Wire, frozen=True, kw_only=True):
    """The user's tier after the change, or why the change was refused."""

    tier: str | None = None
    refused: str | None = None


AccountStatus = Literal["enabled", "disabled"]


class SetAccountStatusRequest(Wire, frozen=True, kw_only=True):
    """An operator disables or enables an account, as `webhost users disable` asks for it."""

    user_id: str
    status: AccountStatus
    operator: str
    reason: str | None = None


class SetAccountStatusReply(Wire, frozen=True, kw_only=True):
    """The account's status after the change, or why the change was refused.

    While it `waits`, the change is recorded, not published, and so in force nowhere.
    """

    status: AccountStatus | None = None
    waits: bool = False
    refused: str | None = None


class SecretsRequest(Wire, frozen=True, kw_only=True):
    """Which of an agent's secrets are set."""

    user_id: str
    agent_id: str


class SecretsReply(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """When each secret that has a value was set, by name, and the version of them all."""

    version: int
    set_at_ms: dict[str, int]


class ChangeSecretsRequest(Wire, frozen=True, kw_only=True):
    """What the requests that change an agent's secrets share.

    `active_deployment_id` is brought up first.
    """

    user_id: str
    agent_id: str
    actor: str
    active_deployment_id: str | None = None
    request_id: str | None = None
    traceparent: str | None = None


class SetSecretsRequest(ChangeSecretsRequest, frozen=True, kw_only=True):
    """Give these secrets new values, each sealed for the deployer, by name.

    The same `operation` again is the same request, whatever its sealed values look like. At most
    `changes_a_day` changes of one agent's secrets are made in a day, None without end.
    """

    sealed: dict[str, str]
    operation: str
    changes_a_day: int | None = None


class DeleteSecretsRequest(ChangeSecretsRequest, frozen=True, kw_only=True):
    """Delete the values of these secrets; one that has none is left as it is."""

    keys: tuple[str, ...]


class ChangeSecretsReply(Wire, frozen=True, kw_only=True):
    """The version of the agent's secrets after the change, or why there was none: the agent is
    `gone`, or as many changes as are allowed were made, until `full_until_ms`.
    """

    version: int = 0
    gone: bool = False
    full_until_ms: int | None = None


class ReconcileRequest(Wire, frozen=True, kw_only=True):
    """An operator asks the deployer to reconcile its Cloudflare account now.

    A dry run reports what would be removed, and changes nothing.
    """

    dry_run: bool = False


class ReconcileReply(Wire, frozen=True, kw_only=True):
    """The drift: scripts and routes that no deployment owns, and deployments whose script is gone.

    `removed` says whether scripts and routes were removed. The names of `left_out` more are not
    listed.
    """

    scripts: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    left_out: int = 0
    removed: bool = False
    refused: str | None = None


class PlacementRequest(Wire, frozen=True, kw_only=True):
    """An operator asks where at Cloudflare deployments are."""


class Place(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """How many deployments, of how many agents, are in a dispatch namespace; in the account for
    None.
    """

    namespace: str | None
    deployments: int
    agents: int


class PlacedAgent(Wire, frozen=True, kw_only=True):
    """An agent, and whose it is."""

    user_id: str
    agent_id: str


class PlacementReply(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """Where deployments are, and in which `namespace` new ones are made.

    `elsewhere` are agents of which the newest deployment that is kept is not there; `left_out` more
    are not listed.
    """

    namespace: str | None = None
    places: tuple[Place, ...] = ()
    elsewhere: tuple[PlacedAgent, ...] = ()
    left_out: int = 0


class RevokeTelemetryKeyRequest(Wire, frozen=True, kw_only=True):
    """An operator revokes a deployment's telemetry key; the deployment gets the next one.

    Without `generation` the key that it has now is meant, and the reply says which that is. The
    same request again, with it, only says how far the work is.
    """

    deployment_id: str
    operator: str
    generation: int | None = None


class RevokeTelemetryKeyReply(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The generation that is revoked, whether that is in force, and whether the deployment's front
    has its next key (also where it has no front any more); or why not.
    """

    generation: int = 0
    revoked: bool = False
    front_has_next: bool = False
    refused: str | None = None
