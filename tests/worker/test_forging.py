"""What an agent's script says to the front by itself, past the platform's wrapper."""

import asyncio
from typing import Any

import msgspec
import pytest
from webhost_deployer.model import Deployment

from tests.support.deadline import eventually
from tests.worker.harness import Harness

WRAPPER = """
import Agent from "./webhost-agent.mjs";
const lines = (...frames) => frames.map((frame) => JSON.stringify(frame) + "\\n").join("");
queueMicrotask(() => { Agent.prototype.METHOD = BODY; });
export default { invoke: () => "said" };
"""
WAIT_MS = 400


def module(method: str, body: str) -> str:
    return WRAPPER.replace("METHOD", method).replace("BODY", body)


async def report_of(harness: Harness, deployment: Deployment) -> dict[str, Any]:
    def its() -> list[dict[str, Any]]:
        return [event for event in harness.reports if event["deploymentId"] == deployment.id]

    async def there() -> bool:
        return bool(its())

    await eventually(there, "the report")
    return its()[0]


@pytest.mark.accept("6.1")
async def test_time_and_number_are_the_fronts_own(harness: Harness) -> None:
    usage = "{ tokens: 3, toolCalls: 2, computeMs: 0, requests: 9, errors: 5 }"
    deployment = await harness.deploy(
        module(
            "answer",
            f"""async () => {{
              await scheduler.wait({WAIT_MS});
              return lines(["text", "said"], ["end", {usage}]);
            }}""",
        )
    )
    _, answer = await harness.call(deployment, "x")
    said = msgspec.json.decode(answer.body)["usage"]
    assert (said["tokens"], said["toolCalls"]) == (3, 2)
    assert said["computeMs"] >= WAIT_MS / 2
    report = await report_of(harness, deployment)
    assert (report["requests"], report["errors"]) == (1, 0)
    assert report["computeMs"] >= WAIT_MS / 2


@pytest.mark.accept("6.1")
async def test_a_stream_that_drips_ends_with_its_time(harness: Harness) -> None:
    deployment = await harness.deploy(
        module(
            "stream",
            """async function () {
              const { readable, writable } = new IdentityTransformStream();
              const writer = writable.getWriter();
              const drip = async () => {
                for (;;) {
                  await writer.write(new TextEncoder().encode(lines(["text", "."])));
                  await scheduler.wait(100);
                }
              };
              this.ctx.waitUntil(drip());
              return readable;
            }""",
        )
    )
    _, answer = await harness.call(deployment, "x", stream=True, timeout_ms=1_500)
    assert answer.seconds < 4
    assert b"The agent did not answer in time." in answer.body


FRAMES_OF_TOO_MUCH = {
    "text": 'lines(...Array(6).fill(["text", "x".repeat(900_000)]), ["end", {}])',
    "padding": r"""('["text",""]' + " ".repeat(3_000) + "\n").repeat(9_500) + '["end",{}]\n'""",
}


@pytest.mark.accept("6.1")
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("frames", FRAMES_OF_TOO_MUCH.values(), ids=FRAMES_OF_TOO_MUCH)
async def test_more_than_an_answer_has_is_refused(
    harness: Harness, frames: str, stream: bool
) -> None:
    body = f"async () => {frames}"
    if stream:
        body = f"async () => new Blob([{frames}]).stream()"
    deployment = await harness.deploy(module("stream" if stream else "answer", body))
    _, answer = await harness.call(deployment, "x", stream=stream)
    assert b"The agent's answer is over 4 MiB." in answer.body
    assert b"event: done" not in answer.body


@pytest.mark.accept("6.1")
async def test_a_line_longer_than_any_of_the_wrappers_is_refused(harness: Harness) -> None:
    deployment = await harness.deploy(
        module(
            "stream",
            """async function () {
              const { readable, writable } = new IdentityTransformStream();
              const writer = writable.getWriter();
              const bytes = new TextEncoder().encode(lines(["text", "x".repeat(2_000_000)]));
              const write = async () => {
                for (let start = 0; start < bytes.length; start += 50_000)
                  await writer.write(bytes.slice(start, start + 50_000));
                await writer.write(new TextEncoder().encode(lines(["end", {}])));
                await writer.close();
              };
              this.ctx.waitUntil(write());
              return readable;
            }""",
        )
    )
    _, answer = await harness.call(deployment, "x", stream=True)
    assert b"The agent's script answered with something unusable." in answer.body
    assert b"event: done" not in answer.body


@pytest.mark.accept("6.1")
async def test_a_stub_that_was_kept_is_worth_nothing_after_the_call(harness: Harness) -> None:
    deployment = await harness.deploy(
        module(
            "answer",
            """async function (call, caller) {
              const mine = caller.dup();
              const late = () => mine.session("put", { key: "late", value: 1 }).catch(() => {});
              this.ctx.waitUntil(scheduler.wait(500).then(late));
              const had = await mine.session("get", { key: "late" });
              return lines(["text", JSON.stringify(had)], ["end", {}]);
            }""",
        )
    )
    # As long as the front reports, what it gave to the call is still there.
    harness.report_delay_s = 1.5
    try:
        _, answer = await harness.call(deployment, "x")
        session_id = msgspec.json.decode(answer.body)["sessionId"]
        await asyncio.sleep(1)
    finally:
        harness.report_delay_s = 0
    _, again = await harness.call(deployment, "x", session_id=session_id)
    assert msgspec.json.decode(again.body)["output"] == {"text": "{}"}
