"""Pure: which facts are allowed on which subject of USAGE.

The bus lets each producer write to subjects of its own only. What it writes there is checked here
too, fact by fact: its kind must be the producer's, and its user one of that partition.
"""

from webhost_contracts import subjects
from webhost_contracts.events import Envelope, Event, InvocationFinished, TelemetryAccepted

_MAY_STATE: dict[str, type[Event]] = {
    subjects.GATEWAY: InvocationFinished,
    subjects.TELEMETRY_INGEST: TelemetryAccepted,
}


def objection(subject: str, envelope: Envelope, fact: Event) -> str | None:
    """Return why this fact is not allowed on this subject, None if it is."""
    _, partition, producer = (*subject.split("."), "", "")[:3]
    if not isinstance(fact, _MAY_STATE.get(producer, ())):
        return f"'{producer}' does not state {fact.type_name()}"
    if partition != str(subjects.partition_of(envelope.user_id)):
        return f"the user is not of partition {partition}"
    return None
