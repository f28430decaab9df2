"""A call that is admitted alone is decided as it would be among others."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import psycopg
import pytest
from msgspec.structs import replace
from webhost_gateway.ledger.admission_statement import AdmissionRequest, AdmissionStatement, Verdict
from webhost_kit.database.migrations import upgrade
from webhost_kit.database.statements import Statements

from tests.integration.gateway.ledger import Ledger, an_invocation, ledger
from tests.support.deadline import eventually

ALONE, AMONG_OTHERS, ANOTHER = "usr_alone", "usr_among", "usr_another"

WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class State(NamedTuple):
    """A user's rows before the call, the call's limits, and whether it is admitted."""

    requests: int = 0
    in_flight: int = 0
    in_flight_before: int = 0
    max_requests: int | None = None
    max_in_flight: int | None = None
    admitted: bool = True


STATES = {
    "no limits": State(requests=7, in_flight=3),
    "the last request": State(requests=9, max_requests=10),
    "no request left": State(requests=10, max_requests=10, admitted=False),
    "more than a lowered limit": State(requests=12, max_requests=10, admitted=False),
    "none allowed": State(max_requests=0, admitted=False),
    "the last place": State(in_flight=2, max_in_flight=3),
    "no place left": State(in_flight=3, max_in_flight=3, admitted=False),
    "one place, last period's calls": State(in_flight=1, in_flight_before=1, max_in_flight=3),
    "none, last period's calls": State(
        in_flight=1, in_flight_before=2, max_in_flight=3, admitted=False
    ),
    "both limits": State(requests=1, in_flight=1, max_requests=2, max_in_flight=2),
}


class Forms:
    """The statement, for one user alone and for the other in a batch of two."""

    def __init__(self, here: Ledger, statements: Statements) -> None:
        self.here = here
        self.statement = AdmissionStatement(statements, here.lease)
        self.alone, self.among = an_invocation(ALONE), an_invocation(AMONG_OTHERS)

    def set(self, state: State) -> None:
        for user in (ALONE, AMONG_OTHERS):
            for period, requests, in_flight in (
                ("2026-10", 99, state.in_flight_before),
                ("2026-11", state.requests, state.in_flight),
            ):
                self.here.rows(
                    "INSERT INTO quotas (user_id, period_key, requests, in_flight)"
                    " VALUES (%s, %s, %s, %s)",
                    *(user, period, requests, in_flight),
                )

    async def decide(self, state: State) -> tuple[Verdict | None, Verdict | None]:
        alone, among, another = (
            AdmissionRequest(invocation, state.max_requests, state.max_in_flight)
            for invocation in (self.alone, self.among, an_invocation(ANOTHER))
        )
        one = await self.statement.execute([alone], [])
        other = await self.statement.execute([among, another], [])
        return one.get(1), other.get(1)

    def left_by(self, user: str) -> list[Any]:
        """What the call of a user left in the tables, but for what tells the two calls apart."""
        return [
            self.here.rows(
                "SELECT period_key, requests, in_flight FROM quotas"
                " WHERE user_id = %s ORDER BY period_key",
                user,
            ),
            self.here.rows(
                "SELECT (to_jsonb(i) - '{id,user_id,admitted_at_ms}'::text[])::text"
                " FROM invocations i WHERE user_id = %s",
                user,
            ),
        ]


@pytest.fixture
async def forms(database_url: str) -> AsyncIterator[Forms]:
    upgrade(database_url, "webhost_gateway")
    statements = Statements(database_url, "gateway admitting alone")
    async with ledger(database_url) as here:
        yield Forms(here, statements)
        await statements.close()


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
async def test_it_is_decided_alike(forms: Forms, state: State) -> None:
    forms.set(state)
    forms.alone, forms.among = (
        replace(call, key_id="key_1", key_period="2026-11") for call in (forms.alone, forms.among)
    )
    alone, among = await forms.decide(state)
    assert alone is not None
    assert alone == among
    assert alone.admitted is state.admitted
    assert forms.left_by(ALONE) == forms.left_by(AMONG_OTHERS)
    assert len(forms.left_by(ALONE)[1]) == state.admitted


async def test_a_call_that_was_released_before_is_not_admitted(forms: Forms) -> None:
    state = State(requests=1, in_flight=1, max_requests=5)
    forms.set(state)
    for call in (forms.alone, forms.among):
        forms.here.outcomes.release(call)
    await forms.here.outcomes.catch_up()
    before = forms.left_by(ALONE)
    alone, among = await forms.decide(state)
    assert alone == among == Verdict(False, 1, 1, None)
    assert forms.left_by(ALONE) == before


@pytest.mark.parametrize(
    "lost",
    [
        "UPDATE leases SET dead = true",
        "UPDATE leases SET expires_at = now() - interval '1 second'",
        "UPDATE leases SET incarnation = 'another'",
        "DELETE FROM leases",
        "DELETE FROM quotas",
    ],
)
async def test_nothing_is_admitted_without(forms: Forms, lost: str) -> None:
    forms.set(State())
    await forms.decide(State())  # what it knows of quotas it has from here
    forms.alone, forms.among = an_invocation(ALONE), an_invocation(AMONG_OTHERS)
    before = forms.left_by(ALONE)
    forms.here.rows(lost)
    assert await forms.decide(State()) == (None, None)
    assert forms.left_by(ALONE)[1] == before[1]


async def test_those_that_wait_for_each_other_take_what_is_left(
    forms: Forms, database_url: str
) -> None:
    """Twenty, each over a connection of its own, for the last three requests."""
    most = 10
    forms.set(State(requests=most - 3))
    pools = [Statements(database_url, f"gateway admitting {number}") for number in range(20)]

    async def admit(statements: Statements) -> bool:
        statement = AdmissionStatement(statements, forms.here.lease)
        verdicts = await statement.execute([AdmissionRequest(an_invocation(ALONE), most, None)], [])
        return verdicts[1].admitted is True

    async def all_wait() -> bool:
        return forms.here.rows(WAITING) == [(len(pools),)]

    with psycopg.connect(database_url) as first:
        first.execute("SELECT FROM quotas FOR UPDATE")
        admitting = asyncio.gather(*map(admit, pools))
        await eventually(all_wait, "all to wait for the row")
    admitted = await admitting
    await asyncio.gather(*(statements.close() for statements in pools))
    assert sum(admitted) == 3
    assert forms.here.rows(
        "SELECT requests, in_flight FROM quotas WHERE user_id = %s AND period_key = '2026-11'",
        ALONE,
    ) == [(most, 3)]
