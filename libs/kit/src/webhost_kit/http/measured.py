"""How long requests take, by route and kind of answer: the same metric in every service.

A route is a template such as `/v1/agents/{agentId}`, of those that there are; what matches none is
`other`.
"""

from prometheus_client import Histogram

from webhost_kit.process.metrics import CALL_S

OTHER = "other"
_METHODS = frozenset({"GET", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD"})
_STATUSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}
GONE = "gone"

_duration = Histogram(
    "webhost_http_request_duration_seconds",
    "Seconds from a request's head to the end of its answer, by route and class of status; `gone` "
    "where the client left before it was answered; streams count until their end",
    ["method", "route", "status"],
    buckets=CALL_S,
)
_children: dict[tuple[str, str, int], Histogram] = {}


def measure(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request that was answered with this status, 0 where it was not."""
    if method not in _METHODS:
        method = OTHER
    key = (method, route, status // 100)
    child = _children.get(key)
    if child is None:
        status_class = _STATUSES.get(key[2], GONE)
        child = _children[key] = _duration.labels(method, route, status_class)
    child.observe(seconds)
