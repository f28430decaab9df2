"""Given what happened to a deployment, what is done next."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from webhost_contracts.errors import DeploymentError
from webhost_contracts.events import DeploymentFailed, DeploymentStarted, DeploymentSucceeded
from webhost_contracts.events.base import Event
from webhost_deployer import saga
from webhost_deployer.decisions import (
    AGENT_DELETED,
    NOT_HANDLED,
    begin,
    refuse,
    schedule_teardown,
)
from webhost_deployer.model import Phase, Step
from webhost_deployer.saga import FORWARD, Record, Run, Succeed, Wait
from webhost_deployer.steps import STEP_TIMEOUT_S

from tests.unit.deployer.samples import AGENT, COMMAND, START_MS, begun, evolved

Outcome = Callable[[Run], bool | None]
"""What a try comes to: True, None for a transient failure, False for a permanent one."""


class Saga:
    """Runs a deployment against given outcomes; the clock jumps to the next due time."""

    def __init__(self) -> None:
        self.state = begun()
        self.now_ms = START_MS
        self.tried: list[str] = []
        self.events: list[Event] = []

    def delete(self) -> None:
        self.state = replace(self.state, tear_down_at_ms=self.now_ms)

    def step(self, outcome: Outcome) -> bool:
        """Do what is next; say whether there was anything."""
        due = saga.due_at(self.state)
        if due is None:
            assert saga.next_action(self.state, self.now_ms) == Wait(None)
            return False
        self.now_ms = max(self.now_ms, due)
        match saga.next_action(self.state, self.now_ms):
            case Run() as run:
                self.tried.append(run.step)
                self._record(self._outcome(run, outcome(run)))
            case Succeed():
                self._record(
                    DeploymentSucceeded(agent_id=AGENT, worker_name="w", invoke_url="https://w")
                )
            case Record(event):
                self._record(event)
            case Wait() as wait:
                raise AssertionError(f"due, and yet told to {wait}")
        return True

    def play(self, outcome: Outcome) -> None:
        while self.step(outcome):
            assert len(self.events) < 1_000

    def _outcome(self, run: Run, good: bool | None) -> Event:
        if good:
            return saga.succeeded(self.state, run, self.now_ms)
        return saga.failed(
            self.state,
            run,
            DeploymentError(step=run.step, message="no"),
            transient=good is None,
            started_at_ms=self.now_ms,
            now_ms=self.now_ms,
            jitter=1.0,
        )

    def _record(self, event: Event) -> None:
        self.events.append(event)
        self.state = evolved(self.state, event, self.now_ms)


def well(run: Run) -> bool:
    return True


def failing(step: Step, *, permanent: bool) -> Outcome:
    return lambda run: True if run.step != step else (False if permanent else None)


def names(events: list[Event]) -> list[str]:
    return [event.type_name().removeprefix("deployment.") for event in events]


@pytest.mark.accept("8.steps")
def test_a_deployment_goes_through_the_steps_in_order() -> None:
    played = Saga()
    played.play(well)
    assert played.tried == ["validate", "session_store", "upload", "route", "probe", "secrets"]
    assert names(played.events) == ["step_succeeded.v1"] * 6 + ["succeeded.v1"]
    assert played.state.phase is Phase.LIVE
    assert played.state.version == 8


UNDONE = {
    Step.VALIDATE: [],
    Step.SESSION_STORE: [],
    Step.UPLOAD: ["remove_route", "remove_script"],
    Step.ROUTE: ["remove_route", "remove_script"],
    Step.PROBE: ["remove_route", "remove_script"],
    Step.SECRETS: ["remove_route", "remove_script"],
}


@pytest.mark.accept("8.compensation")
@pytest.mark.parametrize("step", FORWARD)
def test_a_permanent_failure_is_compensated_once(step: Step) -> None:
    played = Saga()
    played.play(failing(step, permanent=True))
    assert played.tried == [*FORWARD[: FORWARD.index(step) + 1], *UNDONE[step]]
    assert played.state.phase is Phase.FAILED
    assert played.events[-1] == DeploymentFailed(
        agent_id=AGENT, error=DeploymentError(step=step, message="no")
    )


@pytest.mark.accept("8.retries")
@pytest.mark.parametrize("step", FORWARD)
def test_a_step_that_never_succeeds_is_tried_so_often_and_no_more(step: Step) -> None:
    played = Saga()
    played.play(failing(step, permanent=False))
    assert played.tried.count(step) == saga.MAX_TRIES
    assert played.state.phase is Phase.FAILED
    assert played.now_ms - START_MS < saga.NO_PROGRESS_MS


@pytest.mark.parametrize("step", FORWARD)
def test_a_transient_failure_costs_one_more_try(step: Step) -> None:
    played = Saga()
    played.play(lambda run: True if run.attempt > 1 or run.step != step else None)
    assert played.tried.count(step) == 2
    assert played.state.phase is Phase.LIVE
    assert played.now_ms == START_MS + saga.FIRST_DELAY_MS


@pytest.mark.accept("8.deletion")
@pytest.mark.parametrize("done", range(len(FORWARD) + 1))
def test_a_deletion_stops_a_deployment_at_the_next_step(done: int) -> None:
    played = Saga()
    for _ in range(done):
        played.step(well)
    played.delete()
    played.play(well)
    reached = FORWARD[min(done, len(FORWARD) - 1)]
    assert played.tried == [*FORWARD[:done], *UNDONE[reached]]
    assert played.state.phase is Phase.FAILED
    assert played.state.failure == DeploymentError(step=reached, message=AGENT_DELETED)


@pytest.mark.parametrize("step", FORWARD)
def test_a_deletion_does_not_wait_for_the_next_try(step: Step) -> None:
    played = Saga()
    while played.state.tries == 0:
        played.step(failing(step, permanent=False))
    before = played.now_ms
    played.delete()
    played.play(well)
    assert played.now_ms == before
    assert played.state.phase is Phase.FAILED


def test_a_live_deployment_is_removed_and_says_so() -> None:
    played = Saga()
    played.play(well)
    played.delete()
    played.play(well)
    assert played.tried[-2:] == ["remove_route", "remove_script"]
    assert played.state.phase is Phase.TORN_DOWN


def test_a_retired_deployment_stays_until_its_time() -> None:
    played = Saga()
    played.play(well)
    later = played.now_ms + 70_000
    played.state = replace(played.state, tear_down_at_ms=later)
    assert saga.next_action(played.state, later - 1) == Wait(later)
    assert saga.next_action(played.state, later) == Run(Step.REMOVE_ROUTE, 1)


def test_a_teardown_is_tried_until_it_succeeds() -> None:
    played = Saga()
    played.play(well)
    played.delete()
    played.play(lambda run: run.attempt > 50)
    assert played.tried.count("remove_script") == 51
    assert played.state.phase is Phase.TORN_DOWN


def test_a_compensation_that_gets_nowhere_does_not_keep_the_deployment_deploying() -> None:
    played = Saga()
    played.play(lambda run: run.step in (Step.VALIDATE, Step.SESSION_STORE))
    assert played.state.phase is Phase.FAILED
    assert played.state.failure == DeploymentError(step="upload", message="no")
    assert played.now_ms - START_MS < saga.NO_PROGRESS_MS


@pytest.mark.accept("4.no-progress")
def test_fifteen_minutes_without_progress_are_the_end() -> None:
    state = replace(begun(), done=(Step.VALIDATE,), progress_at_ms=START_MS)
    last = START_MS + saga.NO_PROGRESS_MS
    assert saga.next_action(state, last - 1) == Run(Step.SESSION_STORE, 1)
    action = saga.next_action(state, last)
    assert isinstance(action, Record)
    assert evolved(state, action.event, last).phase is Phase.COMPENSATING


@pytest.mark.accept("4.no-progress")
def test_fifteen_minutes_of_a_first_step_that_kills_whoever_does_it_are_the_end() -> None:
    """No fact says that it was begun; later ones count from what they say."""
    last = START_MS + saga.NO_PROGRESS_MS
    assert saga.next_action(begun(), last - 1, START_MS) == Run(Step.VALIDATE, 1)
    action = saga.next_action(begun(), last, START_MS)
    assert isinstance(action, Record)
    ended = evolved(begun(), action.event, last)
    assert isinstance(saga.next_action(ended, last, START_MS), Record)
    later = replace(begun(), done=(Step.VALIDATE,), progress_at_ms=last)
    assert saga.next_action(later, last, START_MS) == Run(Step.SESSION_STORE, 1)


@pytest.mark.accept("8.retries")
@pytest.mark.parametrize("step", [Step.PROBE, Step.REMOVE_SCRIPT])
def test_nothing_is_tried_again_before_the_provider_allows_it(step: Step) -> None:
    def retry_at_ms(retry_after_ms: int) -> int | None:
        return saga.failed(
            begun(),
            Run(step, 1),
            DeploymentError(step=step, message="no"),
            transient=True,
            started_at_ms=START_MS,
            now_ms=START_MS,
            jitter=1.0,
            retry_after_ms=retry_after_ms,
        ).retry_at_ms

    assert retry_at_ms(30_000) == START_MS + 30_000
    assert retry_at_ms(1) == retry_at_ms(0) == START_MS + saga.FIRST_DELAY_MS


def test_waiting_for_a_first_try_is_not_lack_of_progress() -> None:
    late = START_MS + 10 * saga.NO_PROGRESS_MS
    assert saga.next_action(begun(), late) == Run(Step.VALIDATE, 1)


def test_what_has_begun_comes_before_what_has_not_and_that_in_its_order() -> None:
    """Or a flood of one user's own would keep each of its deployments from making progress."""
    first, second = begun(), evolved(None, begun().plan, START_MS + 1)
    working = Saga()
    working.step(well)
    due = [saga.due_at(it) for it in (working.state, first, second)]
    assert due == [0, START_MS, START_MS + 1]


def test_a_compensation_outlasts_cloudflares_block_after_too_many_calls() -> None:
    """For five minutes no call is let through; what is left then would be an orphan."""
    played = Saga()
    unblocked_ms = START_MS + 5 * 60_000 + int(STEP_TIMEOUT_S * 1000)

    def blocked(run: Run) -> bool:
        if run.step in saga.REMOVAL and played.now_ms < unblocked_ms:
            played.now_ms = min(unblocked_ms, played.now_ms + int(STEP_TIMEOUT_S * 1000))
            return False
        return run.step != Step.PROBE

    played.play(blocked)
    assert played.tried[-2:] == ["remove_route", "remove_script"]
    assert played.state.phase is Phase.FAILED


@pytest.mark.parametrize(("tries", "longest_ms"), [(1, 500), (2, 1000), (5, 8000), (30, 60_000)])
def test_tries_are_further_and_further_apart(tries: int, longest_ms: int) -> None:
    assert saga.delay_ms(tries, 0.0, saga.LONGEST_DELAY_MS) == longest_ms / 2
    assert saga.delay_ms(tries, 1.0, saga.LONGEST_DELAY_MS) == longest_ms


@given(
    outcomes=st.lists(st.sampled_from([True, None, False])),
    deleted_before=st.none() | st.integers(0, 30),
)
def test_whatever_happens_it_ends_and_leaves_nothing_it_does_not_own(
    outcomes: list[bool | None], deleted_before: int | None
) -> None:
    played = Saga()
    script = iter(outcomes)
    done: list[str] = []

    def outcome(run: Run) -> bool | None:
        good = next(script, True)
        if good:
            done.append(run.step)
        return good

    steps = 0
    while True:
        if steps == deleted_before:
            played.delete()
        if not played.step(outcome):
            break
        steps += 1

    assert played.state.phase in (Phase.LIVE, Phase.FAILED, Phase.TORN_DOWN)
    tried = "upload" in played.tried
    if played.state.phase is Phase.LIVE:
        assert done == list(FORWARD)
    elif tried and "session_store" in done and played.now_ms - START_MS < 60_000:
        assert done[-2:] == ["remove_route", "remove_script"]
    if deleted_before is not None and deleted_before <= steps:
        assert played.state.phase is not Phase.LIVE


def test_a_deployment_of_a_deleted_agent_has_begun_and_failed() -> None:
    started, failed = begin(COMMAND, key_version=2, namespace=None, agent_deleted=True)
    assert isinstance(started, DeploymentStarted)
    state = evolved(evolved(None, started), failed)
    assert state.phase is Phase.FAILED
    assert (state.plan.key_version, state.plan.key_generation) == (2, 1)
    assert saga.due_at(state) is None


def test_a_deployment_may_fail_without_ever_having_begun() -> None:
    state = evolved(None, refuse(AGENT, NOT_HANDLED))
    assert (state.phase, state.version, state.started) == (Phase.FAILED, 1, None)
    assert saga.due_at(state) is None


@pytest.mark.parametrize(("second", "facts"), [(4, 1), (5, 0), (6, 0)])
def test_an_earlier_date_of_a_teardown_stands(second: int, facts: int) -> None:
    (scheduled,) = schedule_teardown(begun(), 5)
    state = evolved(begun(), scheduled)
    assert state.tear_down_at_ms == 5
    assert len(schedule_teardown(state, second)) == facts


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.TORN_DOWN])
def test_what_has_ended_is_not_torn_down(phase: Phase) -> None:
    assert schedule_teardown(replace(begun(), phase=phase), 5) == []


@pytest.mark.accept("4.no-progress")
def test_no_progress_is_fifteen_minutes() -> None:
    assert saga.NO_PROGRESS_MS == 15 * 60_000
