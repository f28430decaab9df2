"""Runs one process of a rebuild: `python -m webhost_billing.rebuild GENERATION PARTITION…`."""

# Before what would load more.
import webhost_kit.process.lean  # noqa: F401  # pyright: ignore[reportUnusedImport]

# isort: split
import asyncio
import sys

import uvloop

from webhost_billing.rebuild.refolding import main

_, generation, *partitions = sys.argv
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main(int(generation), [int(number) for number in partitions]))
