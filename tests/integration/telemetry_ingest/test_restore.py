"""Ingest under which its database and the streams are older all at once."""

from collections.abc import Iterator

import pytest

from tests.integration.telemetry_ingest.conftest import Deployment, Ingest, until_known
from tests.support.backup import RestorableNats, a_copy, running_restorable_nats
from tests.support.deadline import eventually
from tests.support.infra import Postgres


@pytest.fixture
def restorable() -> Iterator[RestorableNats]:
    with running_restorable_nats() as nats:
        yield nats


@pytest.fixture
def nats_account(restorable: RestorableNats) -> str:
    """Ingest is on this server."""
    return restorable.url


@pytest.mark.accept("A1")
async def test_a_deployment_that_was_lost_is_known_no_more(
    ingest: Ingest, deployment: Deployment, restorable: RestorableNats, postgres_server: Postgres
) -> None:
    with a_copy(postgres_server, ingest.dsn) as put_back:
        await restorable.back_up(ingest.bus)
        lost = Deployment()
        await ingest.begun(lost)
        await until_known(ingest, lost)
        await restorable.restore(ingest.bus)
        put_back()

    async def unknown() -> bool:
        return (await ingest.post(lost, lost.report(timestampMs=1)))[0] == 503

    await eventually(unknown, "the deployment to be forgotten", seconds=20)
    await ingest.service.until_ready()
    await until_known(ingest, deployment)
