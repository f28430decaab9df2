"""Calls and streams at a steady rate, as an application makes them, and what came of each.

A call that is told to try again is made again, as clients do; all else is a failure.
"""

import asyncio
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.support.traffic import PROMPT, tokens_of

TRIES = 10
CUT_OFF = "The service is unavailable."
"""What the public origin says where a replica took a request and gave no answer."""
TIMEOUT_S = 65.0


@dataclass
class Counted:
    """One user's calls of one agent: how many ended how, and the tokens of the answered ones.

    `again` are refusals that a later try made good; `cut_off` are those among them behind which the
    call may have been made.
    """

    answered: int = 0
    tokens: int = 0
    again: int = 0
    cut_off: int = 0
    longest_ms: float = 0.0
    failed: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Agent:
    """Whom to call, for whom, and what it answers."""

    token: str
    agent_id: str
    text: str
    counted: Counted = field(default_factory=Counted)


class Steady:
    """Calls `agents` in turn, `rate` a second while no more than `at_once` are under way, and keeps
    `streams` open at each of `streaming`, until the block ends.
    """

    def __init__(
        self,
        origin: str,
        agents: list[Agent],
        streaming: list[Agent],
        *,
        rate: float,
        at_once: int,
        streams: int,
    ) -> None:
        self.held = 0
        """Calls that were not made in time, since so many were under way."""
        self.took_s = 0.0
        self._origin = origin
        self._agents, self._streaming = agents, streaming
        self._rate, self._at_once, self._streams = rate, at_once, streams
        self._stop = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Steady":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * TIMEOUT_S)
        assert not self._thread.is_alive(), "a call hangs"
        if self._problem is not None:
            raise self._problem

    def _run(self) -> None:
        try:
            asyncio.run(self._load())
        except BaseException as error:
            self._problem = error

    async def _load(self) -> None:
        began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(self._origin, connector=connector, timeout=timeout) as http,
            asyncio.TaskGroup() as group,
        ):
            for agent in self._streaming:
                for _ in range(self._streams):
                    group.create_task(self._stream_on(http, agent))
            running: set[asyncio.Task[None]] = set()
            number = 0
            while not self._stop.is_set():
                due = int((time.monotonic() - began) * self._rate)
                for _ in range(number, due):
                    number += 1
                    if len(running) >= self._at_once:
                        self.held += 1
                        continue
                    agent = self._agents[number % len(self._agents)]
                    task = group.create_task(self._until_answered(self._call(http, agent), agent))
                    running.add(task)
                    task.add_done_callback(running.discard)
                await asyncio.sleep(1 / self._rate)
            self.took_s = time.monotonic() - began

    async def _stream_on(self, http: aiohttp.ClientSession, agent: Agent) -> None:
        while not self._stop.is_set():
            await self._until_answered(self._stream(http, agent), agent)

    async def _until_answered(
        self, call: Callable[[], Coroutine[Any, Any, str | None]], agent: Agent
    ) -> None:
        """Make a call until it is answered; each try returns the text, or None to be told again."""
        counted = agent.counted
        began = time.monotonic()
        for _ in range(TRIES):
            try:
                text = await call()
            except Exception as error:
                counted.failed.append(repr(error))
                return
            if text is not None:
                counted.answered += 1
                counted.tokens += tokens_of(text)
                counted.longest_ms = max(counted.longest_ms, (time.monotonic() - began) * 1000)
                return
        counted.failed.append(f"not in {TRIES} tries")

    def _call(
        self, http: aiohttp.ClientSession, agent: Agent
    ) -> Callable[[], Coroutine[Any, Any, str | None]]:
        async def call() -> str | None:
            async with _post(http, f"/v1/invoke/{agent.agent_id}", agent) as answer:
                if await _is_again(answer, agent.counted):
                    return None
                text = (await answer.json())["output"]["text"]
            assert text == agent.text, text
            return text

        return call

    def _stream(
        self, http: aiohttp.ClientSession, agent: Agent
    ) -> Callable[[], Coroutine[Any, Any, str | None]]:
        async def call() -> str | None:
            async with _post(http, f"/v1/invoke/{agent.agent_id}/stream", agent) as answer:
                if await _is_again(answer, agent.counted):
                    return None
                events = _events((await answer.read()).decode())
            text = "".join(data["text"] for name, data in events if name == "delta")
            assert events[-1][0] == "done", f"cut off behind {text!r}: {events[-1]}"
            assert text == agent.text, text
            return text

        return call


def _post(http: aiohttp.ClientSession, path: str, agent: Agent) -> Any:
    headers = {"Authorization": f"Bearer {agent.token}"}
    return http.post(path, json={"input": {"prompt": PROMPT}}, headers=headers)


async def _is_again(answer: aiohttp.ClientResponse, counted: Counted) -> bool:
    """Say whether to try again, once it is time to."""
    if answer.status == 200:
        return False
    said = await answer.text()
    error = json.loads(said)["error"]
    assert (answer.status, error["retryable"]) == (503, True), f"{answer.status} {said}"
    counted.again += 1
    counted.cut_off += CUT_OFF in said
    await asyncio.sleep(math.ceil(float(answer.headers["Retry-After"])))
    return True


def _events(body: str) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for block in body.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines.get("data", "{}"))))
    return found


def summary(agents: list[Agent]) -> Counter[str]:
    """What came of all of them."""
    total: Counter[str] = Counter()
    for agent in agents:
        one = agent.counted
        total.update(
            answered=one.answered, again=one.again, cut_off=one.cut_off, failed=len(one.failed)
        )
    return total
