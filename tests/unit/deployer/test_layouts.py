"""What a layout uploads of a deployment, on a plain account and in a dispatch namespace."""

from collections.abc import Sequence
from typing import cast

import pytest
from msgspec.structs import replace
from webhost_contracts.entitlements import load_tiers
from webhost_contracts.invoke import Limits
from webhost_deployer.cloudflare.addresses import CustomDomain
from webhost_deployer.cloudflare.api import CloudflareApi
from webhost_deployer.cloudflare.egress import Egress
from webhost_deployer.cloudflare.layouts import DispatchNamespace, Layout, PlainAccount
from webhost_deployer.cloudflare.namespaces import UserWorkers
from webhost_deployer.cloudflare.scripts import Script
from webhost_deployer.model import Deployment
from webhost_kit.keys import MasterKeys

from tests.unit.deployer.samples import begun
from tests.unit.deployer.test_scripts import AROUND, bundle

TIERS = load_tiers()


class Uploads:
    """An API that keeps what is uploaded, to the account or into its namespace."""

    namespace = "customers"

    def __init__(self) -> None:
        self.scripts: list[Script] = []

    async def list_scripts_unless_taken(self, _: object) -> None:
        pass

    async def put_script(self, script: Script, **_: object) -> None:
        self.scripts.append(script)

    put = put_script


def layouts(uploads: Uploads) -> Sequence[Layout]:
    api, user_workers = cast(CloudflareApi, uploads), cast(UserWorkers, uploads)
    keys = MasterKeys({begun().plan.key_version: b"k" * 32})
    common = CustomDomain("w.example", "zone"), AROUND, keys, TIERS
    return PlainAccount(api, *common), DispatchNamespace(api, user_workers, *common, Egress())


def of_tier(name: str) -> Deployment:
    state = begun()
    return replace(state, started=replace(state.plan, tier=name))


@pytest.mark.accept("8.scripts")
@pytest.mark.parametrize(("name", "counts_as"), [("free", "free"), ("pro", "pro"), ("x", "free")])
async def test_a_script_has_its_tiers_limits_and_a_user_worker_is_called_with_them(
    name: str, counts_as: str
) -> None:
    tier, deployment = TIERS[counts_as], of_tier(name)
    uploads = Uploads()
    plain, dispatch = layouts(uploads)
    await plain.upload(deployment, bundle("index.mjs"), {})
    await dispatch.upload(deployment, bundle("index.mjs"), {})
    on_account, front, in_namespace = uploads.scripts
    assert on_account.limits == {"cpu_ms": tier.cpu_ms, "subrequests": tier.subrequests}
    assert front.limits == in_namespace.limits == {}
    assert plain.limits(deployment) is None
    assert dispatch.limits(deployment) == Limits(tier.cpu_ms, tier.subrequests)
