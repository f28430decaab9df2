"""What the log says of requests that fail: what strangers send is bounded there."""

from typing import Any

from structlog.testing import capture_logs
from webhost_api.middleware import MOST_SHOWN, RequestId

SCOPE = {"type": "http", "method": "M" * 5_000, "path": "/" + "p" * 60_000, "headers": []}


async def logged(error: Exception) -> list[Any]:
    async def fails(*_: object) -> None:
        raise error

    async def nothing(*_: object) -> Any:
        raise AssertionError("nothing is read or sent")

    with capture_logs() as lines:
        await RequestId(fails)(dict(SCOPE), nothing, nothing)
    return lines


async def test_a_line_is_no_longer_for_a_longer_path() -> None:
    [line] = await logged(ValueError("a defect"))
    assert (len(line["path"]), len(line["method"])) == (MOST_SHOWN, MOST_SHOWN)
    assert line["path"].startswith("/ppp")
