"""Where a fault test can make the deployer die: before and after all that it does and states. Pure.

Each name is `deployer.<what>.<moment>`, and ALL has every one, so that a test that goes through ALL
covers a new step or fact by itself.
"""

from enum import StrEnum

from webhost_contracts.events import EVENT_TYPES, DeploymentStepSucceeded, TeardownFinished
from webhost_contracts.events.base import Event
from webhost_contracts.events.deployment import DeployerEvent
from webhost_contracts.events.secret import SecretEvent

from webhost_deployer.model import Step


class Moment(StrEnum):
    """When, in relation to what is named.

    STARTING and DONE are around what is done at a provider, RECORDING and RECORDED around the
    transaction that appends a fact. What follows a step at once has the step's DONE before it.
    """

    STARTING = "starting"
    DONE = "done"
    RECORDING = "recording"
    RECORDED = "recorded"


PURGE = "purge"
ORPHANED_ROUTE = "orphaned_route"
ORPHANED_SCRIPT = "orphaned_script"
RESEAL = "reseal"

_OUTCOMES = (DeploymentStepSucceeded, TeardownFinished)
"""Facts that only state what a step or a purge came to, whose points are around them."""

FACTS = tuple(
    kind
    for kind in EVENT_TYPES
    if issubclass(kind, DeployerEvent | SecretEvent) and kind not in _OUTCOMES
)
AROUND_STEPS = (Moment.STARTING, Moment.DONE, Moment.RECORDED)
AROUND_FACTS = (Moment.RECORDING, Moment.RECORDED)
AROUND_REMOVALS = (Moment.STARTING, Moment.DONE)


def point(what: str, moment: Moment) -> str:
    """Return the point's name; `what` is a step, PURGE, or what reconciliation removes."""
    return f"deployer.{what}.{moment}"


def fact_point(kind: type[Event], moment: Moment) -> str:
    """Return the name of a point around the transaction that begins with this kind of fact."""
    name, _, _version = kind.type_name().rpartition(".")
    return point(name, moment)


ALL = (
    *(point(step, moment) for step in (*Step, PURGE) for moment in AROUND_STEPS),
    *(fact_point(kind, moment) for kind in FACTS for moment in AROUND_FACTS),
    *(point(RESEAL, moment) for moment in AROUND_FACTS),
    *(point(w, moment) for w in (ORPHANED_ROUTE, ORPHANED_SCRIPT) for moment in AROUND_REMOVALS),
)
