"""How gateways share the rate limits: simulated, with the time passed in.

Every gateway renews its lease at its own moment of the interval, as in reality.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from webhost_gateway.shares import Shares
from webhost_kit.errors import RateLimited
from webhost_kit.http.rate_limiter import RateLimiter

EVERY_S = 2.0
LIMIT = 600
TICKS_PER_S = 20


@dataclass
class Gateway:
    shares: Shares = field(default_factory=lambda: Shares(EVERY_S))
    stated: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.limiter = RateLimiter("user", share=self.shares.share)

    def call(self, now_s: float) -> bool:
        try:
            self.limiter.acquire("usr_1", LIMIT, now_s)
        except RateLimited:
            return False
        return True


@dataclass
class World:
    """Gateways with one user; `calls(s)` says how many calls a second go to each of them."""

    gateways: list[Gateway]
    granted: int = 0
    refused: int = 0

    def run(self, seconds: int, calls: Callable[[float], list[float]], start_s: int = 0) -> None:
        owed = [0.0] * len(self.gateways)
        for tick in range(start_s * TICKS_PER_S, (start_s + seconds) * TICKS_PER_S):
            now_s = tick / TICKS_PER_S
            for place, gateway in enumerate(self.gateways):
                moment = round(place * EVERY_S * TICKS_PER_S / len(self.gateways))
                if tick % round(EVERY_S * TICKS_PER_S) == moment:
                    self.renew(gateway, now_s)
            for place, rate in enumerate(calls(now_s)):
                owed[place] += rate / TICKS_PER_S
                while owed[place] >= 1:
                    owed[place] -= 1
                    if self.gateways[place].call(now_s):
                        self.granted += 1
                    else:
                        self.refused += 1

    def renew(self, gateway: Gateway, now_s: float) -> None:
        gateway.stated = gateway.shares.state()
        others = [other.stated for other in self.gateways if other is not gateway]
        gateway.shares.agree(others, now_s)


def settled(gateways: int) -> World:
    world = World([Gateway() for _ in range(gateways)])
    world.run(8, lambda _: [0.0] * gateways)
    return world


PER_S = LIMIT / 60

Pattern = Callable[[int], Callable[[float], list[float]]]
PATTERNS: dict[str, Pattern] = {
    "everywhere": lambda n: lambda _: [4 * PER_S] * n,
    "at one": lambda n: lambda _: [4 * PER_S] + [0.0] * (n - 1),
    "wandering": lambda n: lambda now: [4 * PER_S * (int(now / 5) % n == k) for k in range(n)],
    "hopping": lambda n: lambda now: [4 * PER_S * (int(now) % n == k) for k in range(n)],
    "in waves": lambda n: lambda now: [4 * PER_S * (int(now / 7) % 2)] * n,
}


@pytest.mark.accept("6.C1")
@pytest.mark.parametrize("gateways", [1, 2, 3, 8])
@pytest.mark.parametrize("name", PATTERNS)
def test_together_no_more_than_the_limit_and_one_burst(name: str, gateways: int) -> None:
    world = settled(gateways)
    calls = PATTERNS[name](gateways)
    for second in range(8, 308, 10):
        world.run(10, calls, second)
        assert world.granted <= (LIMIT + PER_S * (second + 2)) * 1.005
    print(f"{name}, {gateways}: {world.granted / (LIMIT + 300 * PER_S):.0%} of limit and burst")


@pytest.mark.accept("6.C1")
@pytest.mark.parametrize("gateways", [2, 3, 8])
def test_a_user_on_one_gateway_has_three_quarters_of_the_rate(gateways: int) -> None:
    world = settled(gateways)
    calls = PATTERNS["at one"](gateways)
    world.run(60, calls, 8)
    before = world.granted
    world.run(120, calls, 68)
    assert (world.granted - before) / (120 * PER_S) >= 0.75


@pytest.mark.parametrize("gateways", [2, 3, 5])
@pytest.mark.parametrize("name", ["at one", "spread"])
def test_a_user_within_the_promise_is_not_refused(name: str, gateways: int) -> None:
    """Whose calls spread over all gateways may use the whole limit, on one of them 3/4 of it."""
    world = settled(gateways)
    rates = [0.75 * PER_S] + [0.0] * (gateways - 1)
    if name == "spread":
        rates = [PER_S / gateways] * gateways
    world.run(300, lambda _: rates, 8)
    assert world.refused == 0


def test_one_gateway_alone_has_all() -> None:
    world = settled(1)
    world.run(60, lambda _: [100 * PER_S], 8)
    assert world.granted == pytest.approx(2 * LIMIT, rel=0.001)


@pytest.mark.accept("6.C1")
def test_while_gateways_come_and_go_the_surplus_is_one_renewal_and_its_burst() -> None:
    world = settled(2)
    flood = 4 * PER_S
    world.run(60, lambda _: [flood] * 2, 8)
    before = world.granted
    world.gateways.append(Gateway())
    world.run(30, lambda _: [flood] * 3, 68)
    surplus = world.granted - before - 30 * PER_S
    assert surplus <= LIMIT + PER_S * EVERY_S
    before = world.granted
    world.gateways.pop()
    world.run(60, lambda _: [flood] * 2, 98)
    assert world.granted - before == pytest.approx(60 * PER_S, rel=0.06)
