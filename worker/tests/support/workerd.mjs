// Real workerd processes for these tests, on free ports, with temporary folders. They keep no test
// process alive, and end with it at the latest, whatever became of its tests.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const SOURCE = join(ROOT, "worker/src/webhost_worker");
const FOLDERS = ["front", "agent", "sessions", "shared"];
const WORKERD = join(ROOT, "node_modules/@cloudflare/workerd-linux-64/bin/workerd");
const START_TIMEOUT_MS = 15_000;

/** The platform's modules that `main` needs, found by following its imports. */
export function platformModules(main) {
  const modules = {};
  const visit = (name) => {
    if (name in modules || name === "webhost-customer.mjs") return;
    const folder = FOLDERS.find((each) => existsSync(join(SOURCE, each, name)));
    modules[name] = readFileSync(join(SOURCE, folder, name), "utf8");
    for (const [, next] of modules[name].matchAll(/"\.\/(webhost-[a-z-]+\.mjs)"/g)) visit(next);
  };
  visit(main);
  return modules;
}

const running = new Set();
const folders = [];

process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), "webhost-worker-"));
  folders.push(folder);
  return folder;
}

/** A Cap'n Proto worker: `modules` by name (the first is the main one), `rest` of its fields. */
export function worker(folder, modules, rest, flags = []) {
  const names = Object.keys(modules);
  for (const name of names) writeFileSync(join(folder, name), modules[name]);
  const embedded = names.map((name) => `(name = "${name}", esModule = embed "${name}")`);
  return `(modules = [${embedded.join(", ")}], compatibilityDate = "2026-01-01",
    compatibilityFlags = [${flags.map((flag) => `"${flag}"`)}], ${rest})`;
}

export const textBindings = (values) =>
  Object.entries(values).map(
    ([name, text]) => `(name = "${name}", text = ${JSON.stringify(text)})`,
  );

/** Starts workerd with this configuration; `ports` by the names of its sockets. */
export async function startWorkerd(folder, config) {
  const file = join(folder, "config.capnp");
  writeFileSync(
    file,
    `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = ${config};`,
  );
  const child = spawn(WORKERD, ["serve", file, "--control-fd=3"], {
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  running.add(child);
  const exited = new Promise((resolve) => child.once("exit", resolve));
  exited.then(() => running.delete(child));
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (log += data));

  const expected = [...config.matchAll(/\(name = "([a-z]+)", address = /g)];
  const ports = {};
  const listening = (async () => {
    for await (const line of createInterface({ input: child.stdio[3] })) {
      const { event, socket, port } = JSON.parse(line);
      if (event === "listen") ports[socket] = port;
      if (Object.keys(ports).length === expected.length) return "listening";
    }
    return "closed";
  })();
  let timer;
  const timeout = new Promise((resolve) => {
    timer = setTimeout(resolve, START_TIMEOUT_MS, "not listening in time");
  });
  const state = await Promise.race([listening, timeout]);
  clearTimeout(timer);
  for (const part of [child, ...child.stdio.slice(1)]) part.unref();
  const stop = async () => {
    child.ref();
    child.kill("SIGTERM");
    await exited;
  };
  if (state !== "listening") {
    await stop();
    throw new Error(`workerd: ${state}\n${log}`);
  }
  return { ports, stop, log: () => log };
}
