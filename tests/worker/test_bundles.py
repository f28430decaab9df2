"""A bundle of modules of every kind, on real workerd, in each layout."""

import msgspec
import pytest
from webhost_api import bundles
from webhost_contracts import wire
from webhost_contracts.artifacts import Bundle

from tests.support.bundles import OF_EVERY_KIND, OF_EVERY_KIND_ANSWERS, tarred, zipped
from tests.worker.harness import Harness


@pytest.mark.accept("7.4.kinds")
async def test_modules_of_every_kind_import_each_other(harness: Harness) -> None:
    packed = bundles.read(zipped(OF_EVERY_KIND))
    assert packed.artifact == bundles.read(tarred(OF_EVERY_KIND, "./")).artifact
    deployment = await harness.deploy_bundle(wire.decode(packed.body, Bundle))
    await harness.provider.probe(deployment)
    _, answer = await harness.call(deployment, "you")
    assert answer.status == 200, answer.body
    assert msgspec.json.decode(answer.body)["output"] == {"text": OF_EVERY_KIND_ANSWERS}
