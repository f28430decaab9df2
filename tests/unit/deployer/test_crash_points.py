"""Every step, and every fact that the deployer states, has a point before and behind it."""

import re
from pathlib import Path

import webhost_deployer
from webhost_contracts.events import EVENT_TYPES
from webhost_contracts.events.deployment import DeployerEvent
from webhost_deployer.crash_points import ALL, FACTS, Moment, point
from webhost_deployer.model import Step


def test_no_step_and_no_fact_is_without_a_point() -> None:
    assert {point(step, moment) for step in Step for moment in (Moment.STARTING, Moment.DONE)} < {
        *ALL
    }
    others = {kind for kind in EVENT_TYPES if issubclass(kind, DeployerEvent)} - {*FACTS}
    assert {kind.__name__ for kind in others} == {"DeploymentStepSucceeded", "TeardownFinished"}
    assert len(set(ALL)) == len(ALL)


def test_points_are_named_by_the_scheme_alone() -> None:
    """A point with a name of its own would be in no test that goes through all."""
    package = Path(webhost_deployer.__file__).parent
    calls = [
        call
        for module in package.rglob("*.py")
        for call in re.findall(r"crash_point\((\w+)\(", module.read_text())
    ]
    assert {*calls} == {"point", "fact_point"}
    written = sum(m.read_text().count(" crash_point(") for m in package.rglob("*.py"))
    assert written == len(calls)
