"""The operators' requests that several services serve: show and replay projections and parked
events, republish a service's own facts, and say which of the platform's keys a process holds.

Subjects: `rpc.<service>.<verb>`, the verbs below. A republication is answered with a stream of
progress messages; the last one has `done` or `refused`. To KEYS every process of a service that
holds such keys replies. The others have one reply.
"""

from webhost_contracts.wire import Wire

PROJECTIONS = "projections"
REPLAY = "replay-projection"
PARKED = "parked-events"
REPLAY_PARKED = "replay-parked-events"
REPUBLISH = "republish"
KEYS = "keys"

SERVICES = ("api", "deployer", "gateway", "telemetry-ingest", "billing")
REPUBLISHERS = ("api", "deployer", "billing")
"""The services with an event table."""


def subject(service: str, verb: str) -> str:
    """Return the subject of this request to a service."""
    return f"rpc.{service}.{verb}"


class Nothing(Wire, frozen=True, kw_only=True):
    """A request without fields."""


class KeysReply(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """Which of the platform's keys one process holds: ids by setting, in order; never a key.

    `since_ms` is since when; at the deployer, not before the last Worker lagged. `lagging` counts
    the Workers that do not have the deployer's keys yet, `sealed` the stored secrets by the key
    that opens them, `deployments` those whose reports may still arrive, by the version of their
    master key, and `deployment_ids` are some of them, kept ones first. Each is None from whoever
    does not know.
    """

    process: str
    keys: dict[str, tuple[str, ...]]
    since_ms: int
    lagging: int | None = None
    sealed: dict[str, int] | None = None
    deployments: dict[str, int] | None = None
    deployment_ids: dict[str, tuple[str, ...]] | None = None


class ProjectionState(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """The state of one projection; `problem` is None if healthy, or run by a replica."""

    name: str
    stream: str
    sequence: int
    parked: int
    problem: str | None = None


class ProjectionsReply(Wire, frozen=True, kw_only=True):
    """All of a service's projections."""

    projections: tuple[ProjectionState, ...] = ()
    refused: str | None = None


class ProjectionRequest(Wire, frozen=True, kw_only=True):
    """About one projection, by its name."""

    projection: str


class ReplayReply(Wire, frozen=True, kw_only=True):
    """Done, unless refused."""

    refused: str | None = None


class ParkedRequest(Wire, frozen=True, kw_only=True):
    """Lists a projection's parked events; with `sequence`, those of one message, in full."""

    projection: str
    sequence: int | None = None


class ParkedEntry(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """One parked event. `body` is its envelope, or whatever was found in its place, as text; it is
    only present when a single message was requested.
    """

    projection: str
    sequence: int
    index: int
    subject: str
    aggregate_id: str | None
    version: int | None
    parked_at_ms: int
    reason: str
    body: str | None = None


class ParkedReply(Wire, frozen=True, kw_only=True):
    """At most 500, in the stream's order; ProjectionState says how many there are."""

    events: tuple[ParkedEntry, ...] = ()
    refused: str | None = None


class ReplayParkedReply(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """How many were folded, and how many are still parked."""

    folded: int = 0
    left: int = 0
    refused: str | None = None


class RepublishRequest(Wire, frozen=True, kw_only=True):
    """Republish, from the event table, the service's own facts that are missing on the stream."""

    dry_run: bool = False


class RepublishProgress(Wire, frozen=True, kw_only=True, omit_defaults=False):
    """How many own facts are on the stream, are missing there, and have been republished so far.

    Of the missing ones, `lost` do not wait in the outbox: nothing else brings them there.
    """

    held: int = 0
    missing: int = 0
    lost: int = 0
    published: int = 0
    done: bool = False
    refused: str | None = None
