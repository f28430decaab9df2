"""Every fault of Cloudflare at every call that a saga makes: it ends right, and leaves nothing.

The calls are those of a run without faults, so that a new call is covered by itself. A saga is a
deploy on an empty account, one that fails, one during which a secret is set, a secret of a live
deployment, a retirement and an agent's deletion; on a plain account and in a dispatch namespace, on
a domain of one's own and on workers.dev. `test_kill_matrix.py` has the deaths of the deployer
itself, `test_taken.py` names and routes that are there already, `test_pointer.py` what the api
makes of it.

`make test` has each kind of fault once; the rest is long, and prints its count at the end.
"""

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from webhost_deployer import saga
from webhost_deployer.model import Phase

from tests.integration.deployer.conftest import on_both_grounds, on_every_ground
from tests.integration.deployer.faulty_cloudflare import Fault
from tests.integration.deployer.saga_cases import (
    Case,
    Ground,
    all_of,
    case_of,
    counting,
    reconciled,
)
from tests.integration.deployer.what_is_left import Others, check_what_is_left, clean

Act = Callable[[Case], Awaitable[None]]
ALWAYS = 10**6


async def nothing(_: Case) -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """What is done before the faults, what is done with them, and how that ends where all is well.

    `fresh`: on an account that has nothing of the installation yet. `behind_probe`: only the calls
    from there on are faulted.
    """

    name: str
    before: Act
    act: Act
    ends: Phase
    fresh: bool = False
    behind_probe: bool = False


SCENARIOS = (
    Scenario("deploy", nothing, Case.deploy, Phase.LIVE, fresh=True),
    Scenario(
        "fail",
        nothing,
        partial(Case.deploy, checksum="sha256:bad"),
        Phase.FAILED,
        behind_probe=True,
    ),
    Scenario("recheck", nothing, Case.deploy_while_a_secret_is_set, Phase.LIVE, behind_probe=True),
    Scenario("secret", Case.deploy, Case.set_secret, Phase.LIVE),
    Scenario("retire", Case.deploy, Case.retire, Phase.TORN_DOWN),
    Scenario("delete", Case.deploy, Case.delete, Phase.TORN_DOWN),
)
DEPLOY, FAIL, *_ = SCENARIOS
TERMINAL = {
    Phase.LIVE: "deployment.succeeded",
    Phase.FAILED: "deployment.failed",
    Phase.TORN_DOWN: "deployment.torn_down",
}


@pytest.fixture(scope="module", autouse=True)
def counted(pytestconfig: pytest.Config) -> Iterator[Counter[str]]:
    """The runs so far, by how they ended; printed when the last test is through."""
    with counting(pytestconfig, "fault matrix, runs") as counts:
        yield counts


@dataclass(frozen=True)
class Calls:
    """What a scenario calls where nothing is wrong: `these`, after `unfaulted` others."""

    unfaulted: int
    these: list[str]


async def calls_of(ground: Ground, scenario: Scenario) -> Calls:
    """Return the calls of a run without faults."""
    key = ground.installation_id, scenario.name
    if key not in _calls:
        if not scenario.fresh:
            await warm(ground)
        async with case_of(ground, fresh=scenario.fresh) as case:
            await scenario.before(case)
            before = len(case.line.made)
            await scenario.act(case)
            made, unfaulted = case.line.made[before:], 0
            assert (await case.state())["phase"] == scenario.ends
            await clean(case)
        if scenario.behind_probe:
            unfaulted = 1 + next(i for i, call in enumerate(made) if call.endswith("/probe"))
        _calls[key] = Calls(unfaulted, made[unfaulted:])
        print(f"{scenario.name}: {', '.join(_calls[key].these)}")
    return _calls[key]


async def warm(ground: Ground) -> None:
    """See that the installation that cases share has its own scripts."""
    async with case_of(ground, fresh=False) as case:
        await case.deploy()
        await clean(case)


_calls: dict[tuple[str, str], Calls] = {}


def applies(fault: Fault, call: str) -> bool:
    """Whether Cloudflare may answer so: a Worker checks no token, and only an upload fills up."""
    if fault is Fault.FULL:
        return call.startswith("PUT")
    return "/accounts" in call or "/zones" in call or not fault.is_permanent


async def run(
    ground: Ground,
    others: Others,
    scenario: Scenario,
    fault: Fault,
    number: int,
    *,
    calls: int = 1,
) -> str:
    """Do all of a scenario with the fault at this call, and check what came of it."""
    async with case_of(ground, fault, fresh=scenario.fresh) as case:
        try:
            await others.route(case.line.host)
            await scenario.before(case)
            case.line.calls = calls
            unfaulted = (await calls_of(ground, scenario)).unfaulted
            case.line.at = len(case.line.made) + unfaulted + number
            await scenario.act(case)
            assert case.line.struck is not None, "no call was faulted"
            return await check(case, others, scenario, away=calls == ALWAYS)
        except BaseException as error:
            error.add_note(f"{scenario.name}: {fault} at call {number}")
            error.add_note(f"struck: {case.line.struck}; called: {case.line.made}")
            raise
        finally:
            await clean(case)


async def check(case: Case, others: Others, scenario: Scenario, *, away: bool) -> str:
    """It ended, once, as it should have, and nothing is left over; return how it ended."""
    state, facts, fault = await case.state(), await case.facts(), case.line.fault
    phase = Phase(state["phase"])
    assert phase in {scenario.ends, Phase.FAILED}, (phase, facts)
    ended = [fact for fact in facts if fact in TERMINAL.values()]
    expected = [TERMINAL[phase]]
    assert ended == ([TERMINAL[Phase.LIVE]] if phase is Phase.TORN_DOWN else []) + expected
    assert ("teardown.finished" in facts) == (scenario.name == "delete")
    if phase is not scenario.ends:
        assert away or (fault is not None and fault.is_permanent), state["failure"]
        if not away:
            assert "The operator has to" in state["failure"]["message"]
            assert state["failure"]["endpoint"]
    await case.check_rate()
    if not away:
        await check_what_is_left(case, others, phase)
    # Where all could be reached, nothing may wait for a reconciliation; the installation's others
    # may just have ended, between its listing and its reading.
    found = await reconciled(case, dry_run=not away)
    assert away or not any(case.deployment_id in str(it) for it in (*found.scripts, *found.routes))
    assert case.deployment_id not in found.missing
    await check_what_is_left(case, others, phase)
    return str(phase)


async def matrix(
    ground: Ground, others: Others, cases: list[tuple[Scenario, Fault, int]]
) -> Counter[str]:
    """Run these cases, several at once; return how many ended how."""
    counts = Counter[str]()

    async def one(scenario: Scenario, fault: Fault, number: int) -> None:
        counts[await run(ground, others, scenario, fault, number)] += 1

    await all_of([partial(one, *case) for case in cases])
    return counts


@pytest.mark.accept("7.saga.faults")
@on_both_grounds
async def test_each_kind_of_fault_once(
    ground: Ground, others: Others, counted: Counter[str]
) -> None:
    """A sample: the kinds one after the other, at one call after the other."""
    calls = await calls_of(ground, DEPLOY)
    numbers = itertools.cycle(range(1, len(calls.these) + 1))
    cases: list[tuple[Scenario, Fault, int]] = []
    for fault in [*Fault][ground.namespace is None :: 2]:
        number = next(n for n in numbers if applies(fault, calls.these[n - 1]))
        cases.append((DEPLOY, fault, number))
    counted.update(await matrix(ground, others, cases))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.accept("7.saga.faults")
@on_every_ground
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda it: it.name)
async def test_every_fault_at_every_call(
    ground: Ground, others: Others, counted: Counter[str], scenario: Scenario, fault: Fault
) -> None:
    calls = (await calls_of(ground, scenario)).these
    numbers = [n for n, call in enumerate(calls, 1) if applies(fault, call)]
    counted.update(await matrix(ground, others, [(scenario, fault, n) for n in numbers]))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.accept("7.saga.faults")
@on_every_ground
@pytest.mark.parametrize("fault", [Fault.CUT, Fault.TOKEN_INVALID], ids=["away", "token"])
async def test_cloudflare_is_away_from_a_call_on(
    ground: Ground,
    others: Others,
    counted: Counter[str],
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What could not be removed meanwhile goes with the next reconciliation."""
    monkeypatch.setattr(saga, "LONGEST_COMPENSATION_MS", 2_000)

    async def one(scenario: Scenario, number: int) -> None:
        counted[await run(ground, others, scenario, fault, number, calls=ALWAYS)] += 1

    work: list[Callable[[], Awaitable[None]]] = []
    for scenario in (DEPLOY, FAIL):
        calls = (await calls_of(ground, scenario)).these
        numbers = [n for n, call in enumerate(calls, 1) if applies(fault, call)]
        work += [partial(one, scenario, number) for number in numbers]
    await all_of(work)
