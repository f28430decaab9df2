"""The runner: finds agents with due work, and executes it, the users taking turns.

Consumes: the due times of the deployer's rows. Emits: nothing itself; see the executor.
Guarantees: work on one agent is serial across all deployers, by a lock that a kill frees at once
and that a frozen process loses within seconds; at most CONCURRENCY agents at a time per process,
shared out by `queue`, which counts what all deployers have in work; it waits for a broken
dependency.
On replay: what was interrupted is still due.
"""

import asyncio

import structlog
from prometheus_client import Gauge
from webhost_kit.clock import now_ms
from webhost_kit.database.away import is_away
from webhost_kit.database.engine import Database
from webhost_kit.database.locks import held
from webhost_kit.errors import Unavailable
from webhost_kit.tasks import cancel

from webhost_deployer import store
from webhost_deployer.executor import Executor
from webhost_deployer.queue import DueAgent, FairQueue

log = structlog.get_logger(__name__)

CONCURRENCY = 8
POLL_S = 1.0

_active = Gauge(
    "webhost_deployer_agents_in_work", f"Agents that this process works for, {CONCURRENCY} at most"
)
_waiting = Gauge(
    "webhost_deployer_agents_waiting",
    "Agents with due work that no deployer has taken up, as far as one looks",
)


class Runner:
    """Executes what is due for as long as it runs."""

    def __init__(self, database: Database, executor: Executor) -> None:
        self._database = database
        self._executor = executor
        self._wake = asyncio.Event()
        self._queue = FairQueue(CONCURRENCY)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._users: dict[str, str] = {}
        self._to_stop: set[str] = set()

    def wake(self) -> None:
        """Look for due work now."""
        self._wake.set()

    async def run(self) -> None:
        """Poll and execute indefinitely; on cancellation, work under way stops where it is."""
        try:
            while True:
                self._wake.clear()
                await self._start_due()
                try:
                    async with asyncio.timeout(POLL_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            await cancel(*self._tasks.values())

    async def _start_due(self) -> None:
        try:
            async with self._database.transaction() as connection:
                due = await store.due_agents(connection, now_ms(), per_user=CONCURRENCY)
        except Unavailable:
            return
        start, self._to_stop = self._queue.plan(due, self._users)
        waiting = sum(not it.in_work and it.agent_id not in self._users for it in due)
        _waiting.set(waiting - len(start))
        for it in start:
            self._users[it.agent_id] = it.user_id
            task = asyncio.create_task(self._for_agent(it), name=f"agent {it.agent_id}")
            self._tasks[it.agent_id] = task
            task.add_done_callback(lambda _, agent_id=it.agent_id: self._done(agent_id))

    def _done(self, agent_id: str) -> None:
        del self._tasks[agent_id], self._users[agent_id]
        self.wake()

    async def _for_agent(self, due: DueAgent) -> None:
        agent_id = due.agent_id
        try:
            with _active.track_inprogress():
                async with held(self._database.dsn, store.agent_lock(agent_id)) as lock:
                    if lock is not None:
                        await self._executor.execute(
                            agent_id, lock, lambda: agent_id not in self._to_stop
                        )
        except Exception as error:
            if isinstance(error, Unavailable) or is_away(error):
                log.warning("work interrupted", agent=agent_id, error=str(error))
            else:
                log.exception("work failed; it is taken up again", agent=agent_id)
            await asyncio.sleep(POLL_S)
