"""What a layout uploads of a deployment, on a plain account and in a dispatch namespace."""

from collections.abc import Sequence
from typing import cast

import pytest
from msgspec.structs import replace
from webhost_contracts.entitlements import load_tiers
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

    async def put_script(self, script: Script) -> None:
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
async def test_the_agent_script_has_its_tiers_limits(name: str, counts_as: str) -> None:
    tier = TIERS[counts_as]
    uploads = Uploads()
    for layout in layouts(uploads):
        await layout.upload(of_tier(name), bundle("index.mjs"))
    on_account, front, in_namespace = uploads.scripts
    limits = {"cpu_ms": tier.cpu_ms, "subrequests": tier.subrequests}
    assert on_account.limits == in_namespace.limits == limits
    assert front.limits == {}
