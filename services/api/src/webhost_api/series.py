"""Pure: which buckets a request is about, and zeros for those in which nothing was used."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from webhost_contracts import buckets
from webhost_contracts.buckets import KEPT_DAYS, SIZE_MS, Bucket
from webhost_contracts.usage_rpc import Counters, SeriesPoint
from webhost_kit.errors import InvalidRequest

DEFAULT_BUCKETS: Mapping[Bucket, int] = {"minute": 60, "hour": 24, "day": 30}
"""How many buckets there are where a request does not say from when."""


@dataclass(frozen=True)
class Span:
    """Whole buckets, from `from_ms` until before `to_ms` (Unix milliseconds)."""

    bucket: Bucket
    from_ms: int
    to_ms: int

    @classmethod
    def requested(
        cls, bucket: Bucket, from_ms: int | None, to_ms: int | None, now_ms: int
    ) -> "Span":
        """Return the buckets that hold some of the time from `from_ms` until before `to_ms`.

        Raises InvalidRequest where that is none, too many, or some that may not be kept any more.
        """
        size = SIZE_MS[bucket]
        until = now_ms + 1 if to_ms is None else to_ms
        if from_ms is not None and from_ms >= until:
            raise InvalidRequest.at(
                ["fromMs"], f"It has to be before {until}, the time in `toMs`, or now."
            )
        end = until + -until % size
        start = (
            end - DEFAULT_BUCKETS[bucket] * size if from_ms is None else from_ms - from_ms % size
        )
        start = max(start, 0)
        if (end - start) // size > buckets.MOST:
            raise InvalidRequest.at(
                ["fromMs"],
                f"From then on there are {(end - start) // size} {bucket}s, and at most "
                f"{buckets.MOST} are answered; request a shorter time or larger buckets.",
            )
        if start < buckets.readable_from(bucket, now_ms):
            raise InvalidRequest.at(
                ["fromMs"],
                f"Usage by {bucket} is kept for {KEPT_DAYS[bucket]} days; request a later time or "
                "larger buckets.",
            )
        return cls(bucket, start, end)

    def filled(self, points: Iterable[SeriesPoint]) -> Iterator[tuple[int, int, Counters]]:
        """Yield start, end and counters of every bucket, zeros where there is no point."""
        known = {point.start_ms: point.counters for point in points}
        size = SIZE_MS[self.bucket]
        for start in range(self.from_ms, self.to_ms, size):
            yield start, start + size, known.get(start, Counters())
