"""Which reports are recorded in traces: signed ones, as the gateway's call was."""

from asyncio import to_thread

import pytest
from webhost_kit.clock import now_ms
from webhost_kit.process.trace_context import parse

from tests.integration.telemetry_ingest.conftest import Deployment, Ingest, until_known
from tests.support.otlp import Collector, collector
from tests.support.traces import trace_of

REPORT = ("telemetry-ingest", "POST /v1/telemetry/report")


async def recording(ingest: Ingest, receiving: Collector, deployment: Deployment) -> None:
    await ingest.service.stop()
    ingest.service.env |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiving.url,
        "OTEL_TRACES_SAMPLER_ARG": "0",
    }
    await ingest.service.start()
    await until_known(ingest, deployment)


@pytest.mark.accept("10.traces")
async def test_only_signed_reports_are_recorded_as_their_calls_were(
    ingest: Ingest, deployment: Deployment
) -> None:
    with collector() as receiving:
        await recording(ingest, receiving, deployment)
        forged, missing, unsampled, sampled = (trace_of(f) for f in ("01", "01", "00", "01"))
        body = deployment.report(eventId="inv_1", timestampMs=now_ms())
        status, _, _ = await ingest.post(deployment, body, key=b"f" * 32, headers=forged.headers)
        assert status == 401
        url = f"{ingest.service.url}/v1/somewhere"
        async with ingest.http.post(url, data=body, headers=missing.headers) as answer:
            assert answer.status == 404
        for number, trace in enumerate((unsampled, sampled)):
            body = deployment.report(eventId=f"inv_{number}", computeMs=10**9, timestampMs=now_ms())
            status, answer, _ = await ingest.post(deployment, body, headers=trace.headers)
            assert (status, answer["accepted"]) == (202, True)
        report, script = await to_thread(
            receiving.wait_for, sampled.trace_id, REPORT, ("agent", "invoke_agent")
        )
        if report.service == "agent":
            report, script = script, report
        assert {report.parent_id, script.parent_id} == {sampled.span_id}
        # What its Worker says of its compute makes it no longer than the call can have been.
        assert script.end_ns <= report.end_ns
        await ingest.service.stop()
        assert {span.trace_id for span in receiving.spans} == {sampled.trace_id}
        stated = [parse(envelope.traceparent) for _, envelope, _ in await ingest.accepted()]
        assert [context and context.sampled for context in stated] == [False, True]
