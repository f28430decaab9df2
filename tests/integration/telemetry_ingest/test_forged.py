"""Forged signatures by the thousand, as bytes on a connection: none is accepted, none upsets us."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from webhost_contracts.signatures import telemetry_signature

from tests.integration.telemetry_ingest.conftest import KEYS, Deployment, Ingest, until_known
from tests.support.harness import running

FORGERIES = 10_000
CONNECTIONS = 8
WITHIN_S = 60
DELETE = 0x7F

Headers = list[tuple[bytes, bytes]]


@pytest.fixture
async def ingest(database_url: str, nats_account: str) -> AsyncIterator[Ingest]:
    """Ingest that does not tire of failures, so that each one is verified."""
    async with running(Ingest, database_url, nats_account) as harness:
        harness.service.env["TELEMETRY_FAILURES_PER_MINUTE"] = str(10**9)
        await harness.service.start()
        yield harness


class Forger:
    """Makes forged requests for a victim's report: its body, and headers that do not sign it."""

    def __init__(self, chance: random.Random, victim: Deployment, other: Deployment) -> None:
        self._chance = chance
        self._victim = victim
        self._other = other
        self.body = victim.report()
        self.good = telemetry_signature(victim.key, self.body).encode()

    def named(self, *signatures: bytes, deployments: Sequence[str] | None = None) -> Headers:
        names = [self._victim.deployment_id] if deployments is None else deployments
        return [
            *((b"X-Telemetry-Deployment-Id", name.encode()) for name in names),
            *((b"X-Telemetry-Signature", signature) for signature in signatures),
        ]

    def flipped(self) -> Headers:
        """One bit of the signature is another; what that makes no HTTP is left to others."""
        while True:
            signature = bytearray(self.good)
            at = self._chance.randrange(len(signature))
            signature[at] ^= 1 << self._chance.randrange(8)
            if signature[at] >= ord(" ") and signature[at] != DELETE:
                return self.named(bytes(signature))

    def of_another_key(self) -> Headers:
        """The keys of another deployment, of the next but one generation, of other versions."""
        generation = self._chance.choice((1, 3, 4, 7))
        whose = self._other.deployment_id if generation == 1 else self._victim.deployment_id
        key = KEYS.telemetry_key(1, whose, generation)
        assert key is not None
        if self._chance.random() < 0.3:
            key = self._chance.randbytes(32)
        return self.named(telemetry_signature(key, self.body).encode())

    def in_the_others_name(self) -> Headers:
        """The victim's own signature, under the other's id."""
        return self.named(self.good, deployments=[self._other.deployment_id])

    def not_ascii(self) -> Headers:
        signature = bytearray(self.good)
        for _ in range(self._chance.randrange(1, 5)):
            at = self._chance.randrange(len(signature) + 1)
            signature[at:at] = self._chance.choice(
                (b"\xff", b"\xc3\xa9", "\u0661".encode(), b"\xa0")
            )
        return self.named(bytes(signature))

    def of_wrong_case(self) -> Headers:
        scheme, digits = self.good[:3], self.good[3:]
        return self.named(
            self._chance.choice((scheme + digits.upper(), b"V1=" + digits, self.good.upper()))
        )

    def truncated(self) -> Headers:
        """Too short, or too long."""
        at = self._chance.randrange(len(self.good))
        return self.named(self._chance.choice((self.good[:at], self.good[at + 1 :], self.good * 2)))

    def doubled(self) -> Headers:
        """A header is there twice: with a bad value, the good one again, or another name."""
        bad = telemetry_signature(self._chance.randbytes(32), self.body).encode()
        both = [self._victim.deployment_id, self._other.deployment_id]
        self._chance.shuffle(both)
        return self._chance.choice(
            (
                self.named(bad, self.good),
                self.named(self.good, bad),
                self.named(self.good, self.good),
                self.named(self.good, deployments=both),
                self.named(self.good, deployments=[self._victim.deployment_id] * 2),
                self.named(self.good + b", " + bad),
            )
        )

    def missing(self) -> Headers:
        return self._chance.choice((self.named(), self.named(self.good, deployments=[]), []))

    @property
    def kinds(self) -> Sequence[Callable[[], Headers]]:
        return (
            *(self.flipped, self.of_another_key, self.in_the_others_name, self.not_ascii),
            *(self.of_wrong_case, self.truncated, self.doubled, self.missing),
        )


class Connection:
    """One connection, and what was answered on it."""

    def __init__(self, ingest: Ingest) -> None:
        self._host, _, self._port = ingest.service.env["LISTEN"].partition(":")
        self.statuses: Counter[int] = Counter()
        self.bodies: Counter[bytes] = Counter()

    async def send(self, requests: Sequence[tuple[Headers, bytes]]) -> None:
        """Post these one after the other; a connection that the server ends is opened anew."""
        reader = writer = None
        for headers, body in requests:
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection(self._host, int(self._port))
            lines = [b"POST /v1/telemetry/report HTTP/1.1", b"Host: ingest"]
            lines += [name + b": " + value for name, value in headers]
            lines += [b"X-Request-Id: one", b"Content-Length: %d" % len(body), b"", b""]
            writer.write(b"\r\n".join(lines) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self.bodies[await reader.readexactly(length)] += 1
            self.statuses[int(head.split()[1])] += 1
            if b"connection: close" in head.lower():
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()


@pytest.mark.accept("8.forged")
@pytest.mark.accept("6.credentials")
async def test_of_ten_thousand_forgeries_none_is_accepted_and_all_look_the_same(
    ingest: Ingest, deployment: Deployment, chance: random.Random
) -> None:
    other = Deployment()
    await ingest.begun(other)
    await until_known(ingest, other)
    forger = Forger(chance, deployment, other)
    kinds = forger.kinds
    requests = [(kinds[n % len(kinds)](), forger.body) for n in range(FORGERIES)]
    connections = [Connection(ingest) for _ in range(CONNECTIONS)]
    async with asyncio.timeout(WITHIN_S):
        await asyncio.gather(
            *(each.send(requests[n::CONNECTIONS]) for n, each in enumerate(connections))
        )
    statuses = sum((each.statuses for each in connections), Counter[int]())
    assert statuses == {401: FORGERIES}
    # One body for all of them: nothing tells one kind from another.
    assert len(sum((each.bodies for each in connections), Counter[bytes]())) == 1
    assert await ingest.accepted() == []

    # It was the signature that was missing, and nothing else.
    last = Connection(ingest)
    await last.send([(forger.named(forger.good), forger.body)])
    assert last.statuses == {202: 1}
