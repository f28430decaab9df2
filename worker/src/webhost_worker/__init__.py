"""The JavaScript of the data plane, as it is uploaded.

Four kinds of script are made from the modules in these folders, without a build step; within a
script all modules are in one folder. A front is the platform's alone: it verifies, times, counts
and reports, for one deployment or, as a dispatch Worker, for all. An agent script is the
customer's: its modules beside a wrapper that calls them for the front. The deployer adds
`CUSTOMER_MODULE`, which re-exports the default export of the customer's main module, and says
under which path a plain Worker expects its calls. The session script and the outbound script, which
stands between agent scripts in a dispatch namespace and the Internet, are complete but for the
latter's `EGRESS_MODULE`, whose default export says what agents may reach.
Names that begin with ``webhost-`` are the platform's; a customer's module must not have one.
"""

from functools import cache
from importlib.resources import files

FRONT_MAIN = "webhost-front.mjs"
AGENT_MAIN = "webhost-agent.mjs"
CUSTOMER_MODULE = "webhost-customer.mjs"
SESSIONS_MAIN = "webhost-sessions.mjs"
SESSIONS_CLASS = "AgentSessions"
OUTBOUND_MAIN = "webhost-outbound.mjs"
SESSIONS_PROTOCOL_VERSION = 2
FRONT_PROTOCOL_VERSION = 1
EGRESS_MODULE = "webhost-egress.mjs"
OUTBOUND_PARAMETER = "agent"
"""What the dispatch Worker tells the outbound Worker: whose request it is."""
OUTBOUND_PROTOCOL_VERSION = 1
FRONT_FLAGS = ("enable_request_signal",)
"""The front ends a call when the request's signal says that its caller has gone."""

FETCHING_FLAGS = ("global_fetch_strictly_public",)
"""What agents fetch comes in from outside, as anybody's requests do, also at hosts of the account's
own zone: never past its firewall to the servers behind it."""

_FRONT = (
    FRONT_MAIN,
    "webhost-answer.mjs",
    "webhost-deployment.mjs",
    "webhost-frames.mjs",
    "webhost-protocol.mjs",
    "webhost-session.mjs",
    "webhost-telemetry.mjs",
    "webhost-text.mjs",
    "webhost-time.mjs",
    "webhost-turn.mjs",
)
_AGENT = (
    AGENT_MAIN,
    "webhost-context.mjs",
    "webhost-invoke.mjs",
    "webhost-lines.mjs",
    "webhost-plain.mjs",
)
_SESSIONS = (SESSIONS_MAIN, "webhost-sessions-store.mjs")
_OUTBOUND = (OUTBOUND_MAIN, "webhost-hosts.mjs")
_SHARED = ("webhost-bytes.mjs", "webhost-errors.mjs", "webhost-signature.mjs")
_FOLDERS = ("front", "agent", "sessions", "outbound", "shared")


def front_modules() -> dict[str, bytes]:
    """All modules of a front, by module name; the main one comes first."""
    return _read(*_FRONT, *_SHARED)


def agent_modules() -> dict[str, bytes]:
    """The platform's modules of an agent script, by module name; the main one comes first."""
    return _read(*_AGENT)


def session_modules() -> dict[str, bytes]:
    """All modules of the session script, by module name; the main one comes first."""
    return _read(*_SESSIONS, *_SHARED)


def outbound_modules() -> dict[str, bytes]:
    """All modules of the outbound script, by module name; the main one comes first."""
    return _read(*_OUTBOUND, "webhost-errors.mjs")


@cache
def _read(*names: str) -> dict[str, bytes]:
    folders = [files(__name__) / folder for folder in _FOLDERS]
    return {
        name: next(path for folder in folders if (path := folder / name).is_file()).read_bytes()
        for name in names
    }
