"""A call's way through front and agent script, against both in one isolate of one Worker."""

import http.client
import json
import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import httpx
import webhost_worker as worker
from webhost_contracts import ids
from webhost_contracts.artifacts import MODULES_TYPE, Artifact, Bundle, Module
from webhost_contracts.events import DeploymentStarted
from webhost_contracts.invoke import PROTOCOL
from webhost_contracts.signatures import INVOKE_SIGNATURE_HEADER
from webhost_contracts.wire import encode
from webhost_deployer.cloudflare import platform_scripts, scripts
from webhost_deployer.cloudflare.addresses import front_name
from webhost_deployer.cloudflare.scripts import Script, WorkerEnvironment
from webhost_deployer.cloudflare.sdk import files_of, metadata_of
from webhost_deployer.model import Deployment
from webhost_kit.clock import now_ms
from webhost_kit.eventsourcing.store import new_id
from webhost_kit.keys import Signer, base64url, parse_signers, public_keys
from webhost_local.ports import LOOPBACK, free_port

from bench import upstreams
from bench.harness import Aim, Figure, NotMeasured
from bench.options import Options
from bench.report import progress
from bench.seeding import Agent, new_agent
from bench.servers import ROOT, Infrastructure, answers, process

ACCOUNT, TOKEN, SUBDOMAIN = "0" * 32, "for-benchmarks", "bench"
CALLS_PER_SECOND = 100
WARM_UP_CALLS = 100
AGENT = 'export default { async invoke() { return "Hello there."; } };'
SINGLE_MAIN = "single.mjs"
SINGLE = f"""
import front from "./{worker.FRONT_MAIN}";
import Agent from "./{worker.AGENT_MAIN}";
import {{ Caller }} from "./webhost-session.mjs";
Caller.prototype.dup = function () {{ return this; }};
export default {{ fetch: (request, env, ctx) =>
  front.fetch(request, {{ ...env, WEBHOST_AGENT: new Agent(ctx, env) }}, ctx) }};
"""

NOTES = [
    "front: on the local edge, one call at a time, each way's calls in turns; session store and"
    " usage report are real ones on both ways; the origin's part is in both numbers.",
]


@dataclass
class Way:
    """One deployment on the edge's origin, on a connection of its own."""

    connection: http.client.HTTPConnection
    host: str
    signer: Signer
    deployment_id: str
    session_id: str | None = None

    def call(self, *, stream: bool) -> float:
        """Call it; return for how many milliseconds its answer was awaited, to its end."""
        body = encode(
            {
                "protocol": PROTOCOL,
                "invocationId": new_id(ids.INVOCATION, now_ms()),
                "traceId": "bench",
                "admittedAtMs": now_ms(),
                "timeoutMs": 10_000,
                "sessionId": self.session_id,
                "input": {"messages": [{"role": "user", "content": "Hello"}]},
            }
        )
        headers = {
            "Host": self.host,
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if stream else "application/json",
            INVOKE_SIGNATURE_HEADER: self.signer.header(now_ms(), self.deployment_id, body),
        }
        began = time.perf_counter()
        self.connection.request("POST", "/invoke", body, headers)
        answer = self.connection.getresponse()
        said = answer.read()
        took = (time.perf_counter() - began) * 1e3
        if answer.status != 200 or b"Hello there." not in said:
            raise NotMeasured(f"{self.host} answered {answer.status}: {said[:300]!r}")
        if not stream:
            self.session_id = json.loads(said)["sessionId"]
        return took


def measure(infrastructure: Infrastructure, options: Options) -> list[Figure]:
    """Return what the second script costs a whole answer, and a stream."""
    with (
        upstreams.worker(infrastructure.directory) as reports,
        edge(infrastructure.directory, reports.port) as (api, origin),
    ):
        two, single = deployed(api, origin, reports.port)
        figures: list[Figure] = []
        for what, stream in (("a whole answer", False), ("a stream", True)):
            measured: list[float] = []
            limit: list[float] = []
            in_turns(two, single, WARM_UP_CALLS, stream=stream)
            for run in range(options.runs):
                progress(f"front: {what}, run {run + 1}/{options.runs}")
                count = options.seconds * CALLS_PER_SECOND
                times = in_turns(two, single, count, stream=stream)
                measured.append(times[0])
                limit.append(times[1])
            figures.append(
                Figure(
                    name=f"front: p50 of {what} at 1 connection",
                    unit="ms",
                    path="edge > front > agent script",
                    limit_path="edge > both in one isolate",
                    measured=measured,
                    limit=limit,
                    reading="difference",
                    aim=Aim("at most", 0.2),
                )
            )
    return figures


def in_turns(two: Way, single: Way, count: int, *, stream: bool) -> tuple[float, float]:
    """Call both ways by turns; return the median of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(count):
        both = ((two, times[0]), (single, times[1]))
        for way, its in both if turn % 2 else reversed(both):
            its.append(way.call(stream=stream))
    return median(times[0]), median(times[1])


@contextmanager
def edge(directory: Path, reports: int) -> Generator[tuple[str, int]]:
    """Run a local edge; gives its API's base URL and its origin's port."""
    api, origin = free_port(), free_port()
    env = {
        "EDGE_DATA_DIR": str(directory / "edge-data"),
        "EDGE_LISTEN": f"{LOOPBACK}:{origin}",
        "EDGE_API_LISTEN": f"{LOOPBACK}:{api}",
        "EDGE_ACCOUNT_ID": ACCOUNT,
        "EDGE_ZONE_ID": ACCOUNT,
        "EDGE_API_TOKEN": TOKEN,
        "EDGE_WORKERS_DEV_SUBDOMAIN": SUBDOMAIN,
        "EDGE_PRIVATE_ADDRESSES": f"{LOOPBACK}:{reports}",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "webhost_local.edge"]
    with process(
        "edge", command, directory=directory, env=env, is_ready=lambda: answers(api, "/readyz")
    ):
        yield f"http://{LOOPBACK}:{api}/client/v4/accounts/{ACCOUNT}/workers/scripts", origin


def deployed(api: str, origin: int, reports: int) -> tuple[Way, Way]:
    """Upload a deployment as the deployer does, and one whose front and agent are one script."""
    signers = parse_signers(f"i1:{base64url(os.urandom(32))}", "bench")
    environment = _environment(reports, signers)
    deployments = [_deployment(new_agent("usr_bench")) for _ in range(2)]
    agents, fronts = _scripts(deployments, environment)
    fronts[1] = _in_one(fronts[1], agents[1])
    _upload_all(api, environment, agents[:1], fronts)
    two, single = (
        Way(
            http.client.HTTPConnection(LOOPBACK, origin, timeout=30),
            f"{front.name}.{SUBDOMAIN}.workers.dev",
            signers[0],
            deployment.id,
        )
        for front, deployment in zip(fronts, deployments, strict=True)
    )
    return two, single


def deploy(api: str, reports: int, keys: str, agents: Sequence[Agent]) -> None:
    """Upload these agents' deployments, which take calls signed with the first of the keys."""
    environment = _environment(reports, parse_signers(keys, "bench"))
    _upload_all(api, environment, *_scripts([_deployment(each) for each in agents], environment))


def host_of(agent: Agent) -> str:
    """Return the host under which the edge has the agent's deployment."""
    return f"{front_name(agent.agent_id, agent.deployment_id)}.{SUBDOMAIN}.workers.dev"


def _environment(reports: int, signers: tuple[Signer, ...]) -> WorkerEnvironment:
    return WorkerEnvironment(
        installation_id="ins_bench",
        telemetry_report_url=f"http://{LOOPBACK}:{reports}/v1/telemetry/report",
        invoke_public_keys=public_keys(signers),
        platform_public_keys=public_keys(signers),
        session_idle_days=30,
    )


def _scripts(
    deployments: Sequence[Deployment], environment: WorkerEnvironment
) -> tuple[list[Script], list[Script]]:
    bundle = Bundle(modules=(Module(name="main.mjs", content=AGENT),))
    return (
        [scripts.agent_script(each, bundle, None, "ins_bench", {}) for each in deployments],
        [scripts.front_script(each, b"k" * 32, environment) for each in deployments],
    )


def _upload_all(
    api: str, environment: WorkerEnvironment, agents: Sequence[Script], fronts: Sequence[Script]
) -> None:
    """Upload the scripts, and the session store; let the fronts be called from outside."""
    with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        _upload(client, api, platform_scripts.sessions_script(environment), new_class=True)
        for script in (*agents, *fronts):
            _upload(client, api, script)
        for front in fronts:
            client.post(f"{api}/{front.name}/subdomain", json={"enabled": True}).raise_for_status()


def _deployment(agent: Agent) -> Deployment:
    started = DeploymentStarted(
        agent_id=agent.agent_id,
        deployment_version=1,
        tier="free",
        runtime_provider="cloudflare",
        artifact=Artifact(type=MODULES_TYPE, checksum="sha256:" + "0" * 64, size_bytes=1),
        main_module_name="main.mjs",
        invoke_path="/invoke",
        compatibility_date="2026-01-01",
        key_version=1,
        key_generation=1,
    )
    return Deployment(
        id=agent.deployment_id, user_id=agent.user_id, agent_id=agent.agent_id, started=started
    )


def _in_one(front: Script, agent: Script) -> Script:
    """The two scripts as one, whose front calls the agent's wrapper without RPC."""
    return replace(
        front,
        main_module=SINGLE_MAIN,
        modules={SINGLE_MAIN: SINGLE.encode(), **front.modules, **agent.modules},
        bindings=[each for each in front.bindings if each["name"] != "WEBHOST_AGENT"],
    )


def _upload(client: httpx.Client, api: str, script: Script, *, new_class: bool = False) -> None:
    metadata = metadata_of(script)
    if new_class:
        migration = {"new_tag": "v1", "new_sqlite_classes": [worker.SESSIONS_CLASS]}
        metadata["migrations"] = migration
    parts = [(name, (name, body, kind)) for name, body, kind in files_of(script)]
    parts.append(("metadata", ("metadata", json.dumps(metadata).encode(), "application/json")))
    answer = client.put(f"{api}/{script.name}", files=parts)
    if answer.is_error:
        raise NotMeasured(f"the edge refused {script.name}: {answer.text}")
