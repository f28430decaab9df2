"""The slowest calls at half of what the gateway can do, at an even pace."""

from functools import partial

from bench import ways
from bench.harness import Aim, Figure, interleave
from bench.options import Options
from bench.report import progress
from bench.ways import Way


def measure(gateway: Way, direct: Way, most_per_second: float, options: Options) -> list[Figure]:
    """Return the 99th percentile, and what the client that keeps the pace costs."""
    rate = most_per_second / 2
    runs = interleave(
        options.runs,
        {
            "workerd": partial(ways.paced, direct, rate, options.seconds),
            "gateway": partial(ways.paced, gateway, rate, options.seconds),
        },
        lambda line: progress(f"gateway, {rate:,.0f} calls/s at an even pace, {line}"),
    )
    return [
        Figure(
            name="gateway: p99 at half of its most calls",
            unit="ms",
            path=f"{rate:,.0f} calls/s at an even pace > gateway > workerd",
            limit_path="the same calls/s > workerd",
            measured=[seen.load.p99_ms for seen in runs["gateway"]],
            limit=[seen.load.p99_ms for seen in runs["workerd"]],
            reading="measured",
            aim=Aim("at most", 10),
        ),
        Figure(
            name="the client that keeps the pace: behind its plan, p99",
            unit="ms",
            path="from when a request is due and a connection is free until it is sent",
            limit_path="the p99 that it measured",
            measured=[seen.load.behind_ms for seen in runs["gateway"]],
            limit=[seen.load.p99_ms for seen in runs["gateway"]],
        ),
        *ways.cpu_figures(
            "at an even pace",
            f"{rate:,.0f} calls/s > gateway > workerd",
            runs["gateway"],
        ),
    ]
