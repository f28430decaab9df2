"""What routes' handlers are given is made in the event loop, not in threads."""

import inspect
from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from fastapi.security.base import SecurityBase
from webhost_api.app import build


def calls(dependant: Dependant) -> Iterator[object]:
    yield dependant.call
    for inner in dependant.dependencies:
        yield from calls(inner)


def in_the_loop(call: object) -> bool:
    if isinstance(call, SecurityBase):
        return inspect.iscoroutinefunction(type(call).__call__)
    return inspect.iscoroutinefunction(call)


def test_no_request_of_a_route_waits_for_a_thread() -> None:
    found = [
        call
        for route in iter_route_contexts(build().routes)
        if (dependant := getattr(route, "dependant", None))
        for call in calls(dependant)
    ]
    assert len(found) > 100
    assert [call for call in found if not in_the_loop(call)] == []
