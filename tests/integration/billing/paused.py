"""`delayed`, which stands still at two places for as long as there is a file of that name."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text
from webhost_billing.app import compose
from webhost_billing.rebuild.comparing import Comparison
from webhost_billing.totals import TotalsPublisher
from webhost_kit.process.start import start

from tests.integration.billing.delayed import DelayedSettings

DIRECTORY = Path(os.environ["WEBHOST_CRASH_FILE"]).parent
LOOK_EVERY_S = 0.05


async def prepare(self: Comparison, *, dry_run: bool) -> None:
    """Stand still at the end, with a connection that shows that it lives."""
    await _prepare(self, dry_run=dry_run)
    while is_held("prepared"):
        await self._connection.execute(text("SELECT 1"))
        await asyncio.sleep(LOOK_EVERY_S)


async def put(self: TotalsPublisher, due: Sequence[Any]) -> Sequence[Any]:
    """Stand still behind a put."""
    done = await _put(self, due)
    while is_held("put"):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_EVERY_S)
    return done


def is_held(place: str) -> bool:
    if not (DIRECTORY / f"hold-{place}").exists():
        return False
    (DIRECTORY / f"at-{place}").touch()
    return True


_prepare, Comparison.prepare = Comparison.prepare, prepare
_put, TotalsPublisher._put = TotalsPublisher._put, put


if __name__ == "__main__":
    start("billing", DelayedSettings, compose)
