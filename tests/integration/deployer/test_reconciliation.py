"""Reconciliation against a real edge: what is nobody's goes, the rest stays."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import psycopg
import pytest
from webhost_contracts.events import DeploymentSucceeded
from webhost_deployer.app import provider_of
from webhost_deployer.cloudflare.reconciliation import Reconciliation, TablesBehind
from webhost_deployer.settings import Settings
from webhost_kit.database.engine import Database
from webhost_kit.process.service import Service

from tests.integration.deployer.harness import House, new_agent


@pytest.fixture
async def reconciliation(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Reconciliation]:
    for name, value in (house.env | {"OPS_LISTEN": "127.0.0.1:1"}).items():
        monkeypatch.setenv(name, value)
    async with aclosing(Service("deployer")) as service:
        database = service.add("database", Database(house.dsn))
        provider = provider_of(service, Settings(), database)
        yield Reconciliation(database, house.bus, provider)


async def deployed(house: House) -> DeploymentSucceeded:
    event = await house.until_stated(await house.deploy(new_agent()))
    assert isinstance(event, DeploymentSucceeded), event
    return event


@pytest.mark.accept("8.reconciliation")
async def test_what_no_deployment_owns_is_removed(
    house: House, reconciliation: Reconciliation
) -> None:
    house.start()
    kept, left = await deployed(house), await deployed(house)
    await house.until_quiet()
    # As after a compensation that Cloudflare's absence kept from doing its work.
    with psycopg.connect(house.dsn) as connection:
        connection.execute(
            "UPDATE deployments SET phase = 'failed',"
            " state = jsonb_set(state, '{phase}', '\"failed\"') WHERE agent_id = %s",
            (left.agent_id,),
        )
    done = await reconciliation.once()
    assert [script.name for script in done.scripts] == [left.worker_name]
    assert await house.scripts() == [kept.worker_name]
    assert len(await house.routes()) == 1
    assert len(await house.session_workers()) == 1
    again = await reconciliation.once()
    assert (again.scripts, again.routes, again.missing) == ((), (), ())


@pytest.mark.accept("8.reconciliation")
async def test_nothing_is_removed_by_tables_older_than_the_stream(
    house: House, reconciliation: Reconciliation
) -> None:
    house.start()
    event = await deployed(house)
    await house.until_quiet()
    with psycopg.connect(house.dsn) as connection:
        connection.execute("DELETE FROM deployments")
    with pytest.raises(TablesBehind):
        await reconciliation.once()
    assert await house.scripts() == [event.worker_name]


async def test_a_script_that_is_gone_is_reported(
    house: House, reconciliation: Reconciliation
) -> None:
    house.start()
    event = await deployed(house)
    path = f"/accounts/{house.edge.account_id}/workers/scripts/{event.worker_name}"
    await house.api("DELETE", path, params={"force": "true"})
    assert len((await reconciliation.once()).missing) == 1
