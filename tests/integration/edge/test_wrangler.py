"""The official wrangler, unmodified, as a subprocess against the local edge."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.support.edge import Edge

WRANGLER = Path(__file__).resolve().parents[3] / "node_modules" / ".bin" / "wrangler"
WORKER = """
import { DurableObject } from "cloudflare:workers";
import { words } from "./words";
export class Counter extends DurableObject {
  async next() {
    const count = 1 + ((await this.ctx.storage.get("count")) ?? 0);
    await this.ctx.storage.put("count", count);
    return count;
  }
}
export default { async fetch(request, env) {
  const counter = env.COUNTERS.get(env.COUNTERS.idFromName("one"));
  return Response.json([words, env.PLAIN, env.HUSH ?? null, await counter.next()]);
} };
"""
CONFIG = {
    "name": "by-wrangler",
    "main": "worker.js",
    "compatibility_date": "2026-01-01",
    "workers_dev": True,
    "vars": {"PLAIN": "plain"},
    "durable_objects": {"bindings": [{"name": "COUNTERS", "class_name": "Counter"}]},
    "migrations": [{"tag": "v1", "new_sqlite_classes": ["Counter"]}],
}


class Wrangler:
    """Runs commands in a project of its own, with a home of its own."""

    def __init__(self, edge: Edge, directory: Path) -> None:
        self.project = directory / "project"
        home = directory / "home"
        for path in (self.project, home):
            path.mkdir()
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "CLOUDFLARE_API_BASE_URL": edge.api_base_url,
            "CLOUDFLARE_API_TOKEN": edge.api_token,
            "CLOUDFLARE_ACCOUNT_ID": edge.account_id,
            "CI": "1",
            "WRANGLER_SEND_METRICS": "false",
            "WRANGLER_HIDE_BANNER": "true",
        }

    async def run(self, *arguments: str, stdin: str = "", **env: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            str(WRANGLER),
            *arguments,
            cwd=self.project,
            env={**self._env, **env},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(stdin.encode()), 100)
        return process.returncode, output.decode()

    async def succeed(self, *arguments: str, stdin: str = "") -> None:
        code, output = await self.run(*arguments, stdin=stdin)
        assert code == 0, output


@pytest.mark.accept("7")
@pytest.mark.timeout(300)
async def test_wrangler_deploys_sets_a_secret_and_deletes(edge: Edge, tmp_path: Path) -> None:
    wrangler = Wrangler(edge, tmp_path)
    (wrangler.project / "wrangler.json").write_text(json.dumps(CONFIG))
    (wrangler.project / "worker.js").write_text(WORKER)
    words = wrangler.project / "words.js"
    words.write_text('export const words = "first";')

    await wrangler.succeed("deploy")
    assert await _answer(edge) == ["first", "plain", None, 1]

    await wrangler.succeed("secret", "put", "HUSH", stdin="a secret\n")
    assert await _answer(edge) == ["first", "plain", "a secret", 2]

    words.write_text('export const words = "second";')
    await wrangler.succeed("deploy")
    assert await _answer(edge) == ["second", "plain", "a secret", 3], "the secret is kept"

    words.write_text('export const words = "third"; throw new Error("at the top");')
    code, output = await wrangler.run("deploy")
    assert code != 0
    assert "10021" in output
    assert "at the top" in output

    code, output = await wrangler.run("deploy", CLOUDFLARE_API_TOKEN="wrong")
    assert code != 0
    assert "10000" in output

    await wrangler.succeed("delete", "--force")
    assert (await edge.get("by-wrangler"))[0] == 404


USER = """
import { WorkerEntrypoint } from "cloudflare:workers";
export default class extends WorkerEntrypoint { async word() { return "from " + this.env.PLAIN; } }
"""
DISPATCHER = """
export default { async fetch(request, env) {
  return new Response(await env.SPACE.get("by-wrangler").word());
} };
"""


@pytest.mark.timeout(300)
async def test_wrangler_deploys_into_a_dispatch_namespace(edge: Edge, tmp_path: Path) -> None:
    wrangler = Wrangler(edge, tmp_path)
    await wrangler.succeed("dispatch-namespace", "create", "customers")
    config = {
        "name": "by-wrangler",
        "main": "worker.js",
        "compatibility_date": "2026-01-01",
        "vars": {"PLAIN": "user"},
    }
    (wrangler.project / "wrangler.json").write_text(json.dumps(config))
    (wrangler.project / "worker.js").write_text(USER)
    await wrangler.succeed("deploy", "--dispatch-namespace", "customers")

    binding = {"binding": "SPACE", "namespace": "customers"}
    config |= {"name": "dispatcher", "dispatch_namespaces": [binding], "workers_dev": True}
    (wrangler.project / "wrangler.json").write_text(json.dumps(config))
    (wrangler.project / "worker.js").write_text(DISPATCHER)
    await wrangler.succeed("deploy")
    assert await edge.get("dispatcher") == (200, "from user")

    code, output = await wrangler.run("deploy", "--dispatch-namespace", "nobody")
    assert code != 0
    assert "100119" in output


async def _answer(edge: Edge) -> list[object]:
    status, text = await edge.get("by-wrangler")
    assert status == 200, text
    return json.loads(text)
