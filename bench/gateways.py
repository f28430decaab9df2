"""A real gateway that knows a number of agents, with all its dependencies.

The tier has a limit of every kind, all of them too high to be reached: each call is counted
against its quota all the same.
"""

import asyncio
import base64
import itertools
import secrets
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from webhost_contracts import ids, subjects
from webhost_kit.bus.connection import connect
from webhost_kit.bus.publishing import Message
from webhost_kit.eventsourcing.store import new_id
from webhost_local.data_dir import DataDir
from webhost_local.issuer.identity import IssuerIdentity
from webhost_local.ports import LOOPBACK, free_port

from bench import seeding
from bench.harness import NotMeasured
from bench.load import post
from bench.seeding import Agent
from bench.servers import Infrastructure, answers, process, service

USERS = 10
CALLED_AGENTS = 1000
"""Of how many agents, at most, calls are made: every one has its request in a file."""

TOKEN_S = 3600
CALL = b'{"input":{"prompt":"hello"},"traceId":"bench-1"}'
DRAINED_S = 120
TIERS = """
[free]
requests = 1_000_000_000
tokens = 1_000_000_000
computeMs = 1_000_000_000
concurrency = 10_000
requestsPerMinute = 1_000_000_000
telemetryDays = 1
logDays = 1
"""


WAITING = """
SELECT coalesce(sum(jsonb_array_length(('[' || body || ']')::jsonb)), 0)::bigint FROM usage_outbox
"""
FACTS_SINCE = f"""
SELECT count(*), ({WAITING}) FROM invocations WHERE id > %(first)s AND finished_at_ms IS NOT NULL
"""


@contextmanager
def issuer(directory: Path) -> Generator[IssuerIdentity]:
    """Run the development issuer."""
    identity = IssuerIdentity.load_or_make(DataDir.at(directory / "issuer"))
    with process(
        "issuer",
        [sys.executable, "-m", "webhost_local.issuer"],
        directory=directory,
        env={"ISSUER_DATA_DIR": str(directory / "issuer")},
        is_ready=lambda: answers(identity.port, "/jwks"),
    ):
        yield identity


@dataclass(frozen=True)
class Gateway:
    """A running gateway: where it answers, which agents it knows, and its tables.

    `ports` are those of all its replicas, the first one's first.
    """

    pid: int
    port: int
    ports: Sequence[int]
    agents: Sequence[Agent]
    nats_url: str
    dsn: str
    tokens: dict[str, str]
    """By user id."""
    keys: dict[str, str]
    """API keys, by user id."""

    def calls(self, *, with_keys: bool = False) -> list[bytes]:
        """Return one request to each agent, or to an even choice of many, as its user's."""
        step = max(1, len(self.agents) // CALLED_AGENTS)
        return [
            post(invoke_path(agent), CALL, self.headers(agent, with_key=with_keys))
            for agent in self.agents[::step]
        ]

    def headers(self, agent: Agent, *, with_key: bool = False) -> dict[str, str]:
        """Return the headers of a call by the agent's user, with a JWT or an API key."""
        token = (self.keys if with_key else self.tokens)[agent.user_id]
        return {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}

    def facts_since(self, at_ms: int) -> tuple[int, int]:
        """Return how many calls of this instant and later have ended, and the facts of how many
        are published. At this instant every fact was.
        """
        # Ids begin with their time, and are found by the table's key.
        first = new_id(ids.INVOCATION, at_ms)
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute(FACTS_SINCE, {"first": first}).fetchone()
        ended, waiting = row or (0, 0)
        return ended, ended - waiting

    def relay_waits(self) -> int:
        """Return how many facts are not published yet."""
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute(WAITING).fetchone()
        return int(row[0]) if row else 0

    def drain(self) -> None:
        """Return when every fact is published, so that the next measurement is undisturbed."""
        deadline = time.monotonic() + DRAINED_S
        while (waiting := self.relay_waits()) > 0:
            if time.monotonic() > deadline:
                raise NotMeasured(f"{waiting} facts not published after {DRAINED_S} s")
            time.sleep(0.1)


def invoke_path(agent: Agent) -> str:
    """Return where an agent is called."""
    return f"/v1/invoke/{agent.agent_id}"


def new_seed() -> str:
    """Return the seed of a new key pair, as the settings take it."""
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


@contextmanager
def gateway(
    infrastructure: Infrastructure,
    account: str,
    identity: IssuerIdentity,
    worker_port: int,
    agents: int,
    *,
    users: int = USERS,
    replicas: int = 1,
    seed: str | None = None,
    life: Callable[[Agent], Iterable[Message]] = seeding.life,
    settings: Mapping[str, str] | None = None,
) -> Generator[Gateway]:
    """Run a gateway that knows this many agents, and an API key of every user.

    Its streams are the account's, and new. It signs with the key of this seed, or of a new one.
    """
    directory = infrastructure.directory / f"gateway-{account}"
    directory.mkdir()
    tiers = directory / "tiers.toml"
    tiers.write_text(TIERS)
    dsn = infrastructure.new_database(f"gateway_{account}")
    nats_url = infrastructure.nats_url(account)
    tokens = {
        ids.user_id(identity.url, subject): identity.token(subject, expires_in_s=TOKEN_S)
        for subject in (f"user-{number}" for number in range(users))
    }
    known = [
        seeding.new_agent(user_id) for user_id in itertools.islice(itertools.cycle(tokens), agents)
    ]
    made = {user_id: seeding.api_key(user_id) for user_id in tokens}
    facts = itertools.chain.from_iterable(life(agent) for agent in known)
    asyncio.run(_seed(nats_url, itertools.chain(facts, (key for _, key in made.values()))))
    keys = {user_id: token for user_id, (token, _) in made.items()}
    ports = [free_port() for _ in range(replicas)]
    seed = seed or new_seed()
    env = {
        "JWT_ISSUER": identity.url,
        "INVOKE_PRIVATE_KEYS": f"bench:{seed}",
        "RESPONSE_KEYS": f"bench:{seed}",
        "WORKERS_CONNECT_TO": f"{LOOPBACK}:{worker_port}",
        "WEBHOST_TIERS_FILE": str(tiers),
        **(settings or {}),
    }
    with ExitStack() as stack:
        pids = [
            stack.enter_context(
                service(
                    "webhost_gateway",
                    directory,
                    nats_url,
                    dsn,
                    env | {"LISTEN": f"{LOOPBACK}:{port}"},
                )
            )
            for port in ports
        ]
        yield Gateway(pids[0], ports[0], ports, known, nats_url, dsn, tokens, keys)


async def _seed(nats_url: str, facts: Iterable[Message]) -> None:
    bus = await connect(nats_url, "bench")
    try:
        await seeding.publish(bus, subjects.EVENTS, facts)
    finally:
        await bus.close()
