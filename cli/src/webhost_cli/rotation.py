"""Where a rotation stands, and what keeps it from its next phase: read from what the services'
processes say, and from nothing else. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webhost_contracts.maintenance import KeysReply
from webhost_contracts.platform_keys import (
    INVOKE_PRIVATE_KEYS,
    INVOKE_PUBLIC_KEYS,
    TELEMETRY_MASTER_KEYS,
    Ids,
    Kind,
    Phase,
    Place,
    number_of,
)

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


class Unclear(Exception):
    """What the processes hold is no step of a rotation; says what to do."""


@dataclass(frozen=True)
class Standing:
    """Where a rotation stands: `phase` is reached by all; with `moving`, the next one by some.

    At rest there is only `old`.
    """

    old: str
    new: str | None
    phase: Phase
    moving: bool = False


def standing(kind: Kind, held: Sequence[tuple[Place, Ids]]) -> Standing:
    """Read where the rotation stands from what each process holds. Raises Unclear."""
    known = sorted({key for _, ids in held for key in ids}, key=lambda key: (number_of(key), key))
    if not known:
        raise Unclear("no process has said which keys it holds")
    if len(known) == 1:
        return Standing(known[0], None, Phase.OLD)
    if len(known) > len("on") or number_of(known[0]) == number_of(known[1]):
        named = ", ".join(known)
        raise Unclear(
            f"these keys are in use: {named}. A rotation is between two, with different numbers at"
            " the end of their ids: take out what is in no use, by hand"
        )
    old, new = known
    possible = [
        {phase for phase in Phase if _same(place, kind.ids(place, old, new, phase), ids)}
        for place, ids in held
    ]
    for phase in Phase:
        if all(phase in phases for phases in possible):
            return Standing(old, new, phase)
    for phase in (Phase.OLD, Phase.KNOWN, Phase.USED):
        if all(phases & {phase, phase + 1} for phases in possible):
            return Standing(old, new, phase, moving=True)
    raise Unclear(
        f"what the processes hold of {old} and {new} is no step of a rotation: compare it with"
        " docs/runbooks/rotating-keys.md"
    )


def _same(place: Place, wanted: Ids, ids: Ids) -> bool:
    # The order says nothing where every key is only verified with, or the highest number is used.
    if place.setting in (TELEMETRY_MASTER_KEYS, INVOKE_PUBLIC_KEYS):
        return sorted(wanted) == sorted(ids)
    # A gateway may keep the old key behind the one that it signs with.
    if place.setting == INVOKE_PRIVATE_KEYS:
        return wanted[:1] == ids[:1]
    return wanted == ids


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


def deployments_of(kind: Kind, at: Standing, replies: Replies) -> list[str]:
    """Return deployments whose reports may still arrive with the old master key: some of them."""
    if kind.name != "telemetry":
        return []
    named = (reply.deployment_ids or {} for reply in replies["telemetry-ingest"])
    return list(max((ids.get(at.old, ()) for ids in named), key=len, default=()))


def shown(at: Standing, waits: Obstacle | None) -> str:
    """Say where a rotation stands, and what it waits for."""
    if at.new is None:
        where = f"no rotation is under way: {at.old} is the only key"
        return where if waits is None else f"{where}. {waits.reason}"
    where = f"{at.phase.name.lower()}{', moving on' if at.moving else ''}"
    return f"{where}: {waits.reason if waits else 'nothing to wait for'}"


def obstacle(
    kind: Kind, at: Standing, replies: Replies, now_ms: int, settle_ms: int = SETTLE_MS
) -> Obstacle | None:
    """Say what the next phase has to wait for; None if it may begin, or all is done."""
    lagging = max((reply.lagging or 0 for reply in replies.get("deployer", ())), default=0)
    on_workers = kind.name in ("invoke", "platform")
    if on_workers and lagging:
        return Obstacle(f"{lagging} of the platform's Workers have yet to be given these keys")
    since_ms = max(reply.since_ms for group in replies.values() for reply in group)
    is_settling = now_ms - since_ms < settle_ms
    if at.phase is Phase.KNOWN and on_workers and is_settling:
        return Obstacle(f"Workers without {at.new} may still answer")
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
    if is_settling:
        return Obstacle(f"what was signed or sealed with {at.old} may still be under way")
    return None
