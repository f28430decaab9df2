"""How the live gateways share the rate limits, so that together they grant each limit once.

No I/O. With every renewal of its lease a gateway states its pressed keys (users and agents whose
buckets here are less than half full) and reads those of the others. Of N gateways each has 1/N of a
limit's burst. A quarter of the rate is for all alike; the rest is for those where the key is
pressed, evenly: a user whose calls all reach one gateway has at least three quarters of the rate.
Guarantees: while the number of gateways stays the same, the parts of all add up to no more than
the limit. A part is lowered at once, and raised only when every other gateway has had a renewal to
learn why. A gateway that comes adds its part before the others have lowered theirs, for one
renewal; the part of one that died is missing until its lease has ended.
"""

from collections import Counter
from collections.abc import Sequence

from webhost_kit.http.rate_limiter import Share

FOR_ALL = 0.25
"""The part of a rate that is divided evenly, pressed or not."""


class Shares:
    """This gateway's part of the limits; `share` is what the rate limiters go by."""

    def __init__(self, renewed_every_s: float) -> None:
        self.share = Share()
        self._settled_s = renewed_every_s * 0.95
        self._stated: list[str] = []
        self._since: dict[str, float] = {}
        """Since when the keys have been stated without a break."""

    def state(self) -> list[str]:
        """Return the pressed keys, for the others to read."""
        self._stated = list(self.share.pressed)
        self.share.pressed.clear()
        return self._stated

    def agree(self, others: Sequence[Sequence[str]], now_s: float) -> None:
        """Divide the limits anew: each of the other live gateways stated these keys.

        `now_s` is of a clock that never goes back.
        """
        self._since = {key: self._since.get(key, now_s) for key in self._stated}
        gateways = 1 + len(others)
        even = FOR_ALL / gateways if others else 1.0
        elsewhere = Counter(key for other in others for key in other if key in self._since)
        self.share.burst = 1 / gateways
        self.share.rate = even
        self.share.raised = {
            key: even + (1 - FOR_ALL) / (1 + elsewhere[key])
            for key, since_s in self._since.items()
            if others and now_s - since_s >= self._settled_s
        }
