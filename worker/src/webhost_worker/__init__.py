"""The JavaScript of the data plane, as it is uploaded.

Two scripts are made from the modules in these folders, without a build step; within a script all
modules are in one folder. An agent's script is the platform's entry with the customer's modules
beside it: the deployer adds `CUSTOMER_MODULE`, which re-exports the default export of the
customer's main module. The session script is complete.
Names that begin with ``webhost-`` are the platform's; a customer's module must not have one.
"""

from functools import cache
from importlib.resources import files

ENTRY_MAIN = "webhost-entry.mjs"
CUSTOMER_MODULE = "webhost-customer.mjs"
SESSIONS_MAIN = "webhost-sessions.mjs"
SESSIONS_CLASS = "AgentSessions"
SESSIONS_PROTOCOL_VERSION = 1
# Without it any module could import the bindings, secrets included.
COMPATIBILITY_FLAGS = ["disallow_importable_env"]

_SHARED = ("webhost-errors.mjs", "webhost-platform.mjs", "webhost-signature.mjs")
_ENTRY = (
    ENTRY_MAIN,
    "webhost-agent.mjs",
    "webhost-answer.mjs",
    "webhost-plain.mjs",
    "webhost-protocol.mjs",
    "webhost-session.mjs",
    "webhost-telemetry.mjs",
    "webhost-text.mjs",
    "webhost-turn.mjs",
)
_SESSIONS = (SESSIONS_MAIN, "webhost-sessions-store.mjs")


def entry_modules() -> dict[str, bytes]:
    """The platform's modules of an agent's script, by module name; the main one comes first."""
    return _read(*_ENTRY, *_SHARED)


def session_modules() -> dict[str, bytes]:
    """All modules of the session script, by module name; the main one comes first."""
    return _read(*_SESSIONS, *_SHARED)


@cache
def _read(*names: str) -> dict[str, bytes]:
    folders = [files(__name__) / folder for folder in ("agent", "sessions", "shared")]
    return {
        name: next(path for folder in folders if (path := folder / name).is_file()).read_bytes()
        for name in names
    }
