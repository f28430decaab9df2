"""What stands between a rotation and its next phase, by what the services' processes say. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webhost_contracts.maintenance import KeysReply
from webhost_contracts.platform_keys import Ids, Kind, Phase, Place, Standing

SETTLE_MS = 15_000
SETTLE_HERE_MS = 5_000
"""Nothing that was signed or sealed with a key is under way this long after it was last used; on a
local stack, where a Worker is no network away, it takes less.
"""

Replies = Mapping[str, Sequence[KeysReply]]
"""By service: what each of its processes said."""


@dataclass(frozen=True)
class Obstacle:
    """Why the next phase has to wait. What does not pass by itself is for the operator to end."""

    reason: str
    passes: bool = True


def services_of(kind: Kind) -> list[str]:
    """Return the services that hold keys of this kind."""
    return sorted({place.service for place in kind.lists})


def held(kind: Kind, replies: Replies) -> list[tuple[Place, Ids]]:
    """Return what each process holds at each place."""
    return [
        (place, reply.keys.get(place.setting, ()))
        for place in kind.lists
        for reply in replies[place.service]
    ]


def settings_in(kind: Kind, old: str, new: str, phase: Phase) -> list[tuple[Place, Ids]]:
    """Return what every place holds in a phase."""
    return [(place, kind.ids(place, old, new, phase)) for place in sorted(kind.lists)]


def obstacle(
    kind: Kind, at: Standing, replies: Replies, now_ms: int, settle_ms: int = SETTLE_MS
) -> Obstacle | None:
    """Say what the next phase has to wait for; None if it may begin, or all is done."""
    lagging = max((reply.lagging or 0 for reply in replies.get("deployer", ())), default=0)
    on_workers = kind.name in ("invoke", "platform")
    if on_workers and lagging:
        return Obstacle(f"{lagging} of the platform's Workers have yet to be given these keys")
    if at.phase is not Phase.USED:
        return None
    if kind.name == "telemetry":
        counts = [reply.deployments or {} for reply in replies["telemetry-ingest"]]
        reports = max(count.get(at.old, 0) for count in counts)
        if reports:
            return Obstacle(
                f"reports of {reports} deployments that sign with master key {at.old} may still"
                " arrive. It can be dropped 36 days after the last of them has ended. To move one"
                " that is kept to the new key: webhost keys revoke-telemetry DEPLOYMENT",
                passes=False,
            )
    if kind.name == "secrets":
        sealed = [reply.sealed or {} for reply in replies["deployer"]]
        others = max(sum(n for key, n in count.items() if key != at.new) for count in sealed)
        if others:
            return Obstacle(f"{others} secrets have yet to be sealed for {at.new}")
    since_ms = max(reply.since_ms for group in replies.values() for reply in group)
    if now_ms - since_ms < settle_ms:
        return Obstacle(f"what was signed or sealed with {at.old} may still be under way")
    return None
