"""What the real api makes of a deploy that Cloudflare disturbs: the pointer is right after it.

A few of the faults; `test_fault_matrix.py` has all of them, without an api.
"""

from typing import Any

import pytest

from tests.integration.api.harness import Harness as Api
from tests.integration.api.harness import User
from tests.integration.deployer.faulty_cloudflare import Fault, Line, faulty_cloudflare
from tests.integration.deployer.harness import DEPLOY_S, Harness
from tests.support.deadline import eventually
from tests.support.edge import Edge

FAULTS = (
    (Fault.UNAVAILABLE, "PUT"),
    (Fault.TOO_MANY_SECONDS, "POST /zones"),
    (Fault.LOST, "POST /zones"),
    (Fault.HOLLOW, "GET"),
    (Fault.CUT, "POST w"),
    (Fault.TOKEN_FORBIDDEN, "GET"),
    (Fault.TOKEN_INVALID, "POST /zones"),
    (Fault.FULL, "PUT"),
)
"""What goes wrong with the first call that begins so; `POST w` is the probe."""


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.accept("7.saga.faults")
async def test_the_pointer_is_right_after_a_fault(api: Api, harness: Harness, edge: Edge) -> None:
    user = api.user()
    async with (
        faulty_cloudflare(edge) as cloudflare,
        cloudflare.line(Line(harness.host)) as line,
    ):
        harness.env["CLOUDFLARE_API_BASE_URL"] = line.api_base_url
        harness.env["WORKERS_CONNECT_TO"] = line.address
        await harness.start()
        await deployed(user, (await user.create())["id"])
        made = len(line.made)
        live = (await user.create())["id"]
        first = await deployed(user, live)
        assert first["status"] == "active"
        calls = line.made[made:]
        for fault, call in FAULTS:
            number = 1 + next(i for i, it in enumerate(calls) if it.startswith(call))
            never = (await user.create())["id"]
            for agent_id, before in ((live, first["id"]), (never, None)):
                line.fault, line.at, line.struck = fault, len(line.made) + number, None
                ended = await deployed(user, agent_id)
                assert line.struck is not None, (fault, call)
                line.fault = None
                agent = await user.agent(agent_id)
                pointer = agent.get("activeDeploymentId")
                if fault.is_permanent:
                    assert (ended["status"], pointer) == ("failed", before), (fault, ended)
                    assert "The operator has to" in ended["error"]["message"], ended
                    assert agent["status"] == ("active" if before else "error")
                else:
                    assert (ended["status"], pointer) == ("active", ended["id"]), (fault, ended)
                    assert agent["status"] == "active"
                if agent_id == live and not fault.is_permanent:
                    first = ended


async def deployed(user: User, agent_id: str) -> Any:
    """Deploy; return the deployment when it has ended."""
    requested = await user.deploy(agent_id)
    found: list[Any] = []

    async def ended() -> bool:
        found.append(await user.deployment(requested["id"]))
        return found[-1]["status"] != "deploying"

    await eventually(ended, "the end of a deploy", seconds=DEPLOY_S)
    return found[-1]
