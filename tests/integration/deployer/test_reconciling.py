"""When reconciliation is done, at an account without anything: by one deployer at a time, again
after a failure, and never by tables that may be old.
"""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from webhost_contracts.rpc import ReconcileRequest
from webhost_deployer.cloudflare.account import Account
from webhost_deployer.cloudflare.addresses import Routing
from webhost_deployer.cloudflare.reconciliation import Reconciliation, TablesBehind
from webhost_deployer.provider import ProviderError
from webhost_kit.bus.connection import Bus
from webhost_kit.database.engine import Database
from webhost_kit.database.locks import held
from webhost_kit.database.migrations import upgrade

from tests.support.deadline import eventually
from tests.support.harness import in_background


class Empty:
    """An account without anything. `failures` are raised first, one a listing."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.listed = 0
        self.uploads = 0

    async def list_scripts(self) -> list[Any]:
        self.listed += 1
        if self.failures:
            raise self.failures.pop(0)
        return []

    async def list_routes(self) -> list[Any]:
        return []

    async def refresh(self, _: list[Any]) -> None:
        self.uploads += 1


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    upgrade(database_url, "webhost_deployer")
    database = Database(database_url)
    yield database
    await database.close()


def reconciliation(
    database: Database, account: Empty, behind: str | None = None, every_s: float = 0.01
) -> Reconciliation:
    return Reconciliation(
        database,
        cast(Bus, None),
        cast(Account, account),
        cast(Routing, None),
        account.refresh,
        every_s=every_s,
        behind=lambda: behind,
    )


@pytest.mark.accept("8.reconciliation")
async def test_it_goes_on_after_a_failure_of_the_provider(database: Database) -> None:
    account = Empty()
    account.failures = [ProviderError("GET /scripts", None, "away", transient=True)] * 2
    async with in_background(reconciliation(database, account).run()):

        async def reconciled() -> bool:
            return account.uploads > 0

        await eventually(reconciled, "a reconciliation without a failure")
    assert account.listed > 2


@pytest.mark.accept("7.saga.drift")
async def test_a_dry_run_uploads_nothing(database: Database) -> None:
    account = Empty()
    work = reconciliation(database, account)
    await work.once(dry_run=True)
    assert (account.listed, account.uploads) == (1, 0)
    await work.once()
    assert account.uploads == 1


@pytest.mark.accept("7.saga.drift")
async def test_there_is_one_reconciliation_at_a_time(database: Database) -> None:
    account = Empty()
    work = reconciliation(database, account)
    async with held(database.dsn, "reconciliation") as lock:
        assert lock is not None
        told = await work.reply(ReconcileRequest(dry_run=True))
    assert told.refused == "another reconciliation is running; try again"
    assert account.listed == 0
    assert (await work.reply(ReconcileRequest(dry_run=True))).refused is None


@pytest.mark.accept("8.reconciliation")
async def test_a_deployer_that_may_be_behind_touches_nothing(database: Database) -> None:
    account = Empty()
    work = reconciliation(database, account, behind="own facts are not compared yet")
    with pytest.raises(TablesBehind, match="own facts"):
        await work.once()
    assert (account.listed, account.uploads) == (0, 0)


@pytest.mark.accept("8.reconciliation")
async def test_who_no_longer_reconciles_does_not_tell_what_is_missing(database: Database) -> None:
    def missing() -> float | None:
        return REGISTRY.get_sample_value("webhost_deployer_scripts_missing")

    work = reconciliation(database, Empty(), every_s=0.1)
    assert missing() is None
    await work.once()
    assert missing() == 0

    async def silent() -> bool:
        return missing() is None

    await eventually(silent, "the number to be too old")
