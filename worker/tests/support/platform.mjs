// The data plane around an agent, as tests need it: keys, the session Worker, agents' Workers, and
// an HTTP server that takes telemetry and holds gates.

import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { createServer } from "node:http";
import { join } from "node:path";

import {
  platformModules,
  startWorkerd,
  temporaryFolder,
  textBindings,
  worker,
} from "./workerd.mjs";

const AGENT_HEADER = "x-webhost-agent";
const DEADLINE_MS = 10_000;

class SigningKey {
  #pair = generateKeyPairSync("ed25519");
  kid = `k${randomBytes(4).toString("hex")}`;

  get publicKeys() {
    return { [this.kid]: this.#pair.publicKey.export({ format: "jwk" }).x };
  }

  header(audience, body, atMs = Date.now()) {
    const bytes = sign(null, Buffer.from(`${atMs}.${audience}.${body}`), this.#pair.privateKey);
    return `t=${atMs},kid=${this.kid},v1=${bytes.toString("hex")}`;
  }
}

export const invokeKey = new SigningKey();
export const retiringInvokeKey = new SigningKey();
export const platformKey = new SigningKey();
export const strangerKey = new SigningKey();

/** Polls until `probe` gives something truthy. */
export async function eventually(probe, what) {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Takes telemetry reports; `/gate/<name>` answers only once `open(name)` was called. */
export class Outside {
  reports = [];
  requested = [];
  refuse = [];
  #gates = new Map();
  #server = createServer((request, response) => this.#answer(request, response));

  static async start() {
    const outside = new Outside();
    await new Promise((resolve) => outside.#server.listen(0, "127.0.0.1", resolve));
    outside.#server.unref().on("connection", (socket) => socket.unref());
    outside.url = `http://127.0.0.1:${outside.#server.address().port}`;
    return outside;
  }

  open(name) {
    this.#gate(name).resolve();
  }

  async reportOf(invocationId) {
    const its = () => this.reports.find(({ body }) => body.includes(`"${invocationId}"`));
    return await eventually(its, `telemetry of ${invocationId}`);
  }

  #gate(name) {
    if (!this.#gates.has(name)) {
      const gate = {};
      gate.opened = new Promise((resolve) => (gate.resolve = resolve));
      this.#gates.set(name, gate);
    }
    return this.#gates.get(name);
  }

  async #answer(request, response) {
    const parts = [];
    for await (const part of request) parts.push(part);
    this.requested.push(request.url);
    if (request.url === "/telemetry") {
      const status = this.refuse.shift() ?? 202;
      this.reports.push({
        headers: request.headers,
        body: Buffer.concat(parts).toString(),
        status,
      });
      response.writeHead(status).end();
      return;
    }
    if (request.url.startsWith("/gate/")) await this.#gate(request.url.slice(6)).opened;
    response.writeHead(200).end("open");
  }
}

// What the local edge adds on the callee's side: the caller's process injects a header that its
// code cannot reach; this entrypoint, bound to the private socket alone, makes props of it.
const SESSIONS_WRAPPER = `
import sessions from "./webhost-sessions.mjs";
export { AgentSessions, default } from "./webhost-sessions.mjs";
const boundWith = (propsOf) => ({
  fetch(request, env, ctx) {
    const props = propsOf(request);
    return sessions.fetch(request, env, { props, waitUntil: (promise) => ctx.waitUntil(promise) });
  },
});
export const internal = boundWith(({ headers }) => ({ agentId: headers.get("${AGENT_HEADER}") }));
export const one = boundWith(() => ({ agentId: "agt_one" }));
export const any = boundWith(() => ({ anyAgent: true }));`;

/** The session Worker's parts: for a process of its own, or beside an agent's. */
function sessionsWorker(folder, disk, idleDays, env = {}) {
  const modules = { "wrapper.mjs": SESSIONS_WRAPPER, ...platformModules("webhost-sessions.mjs") };
  const bindings = textBindings({
    WEBHOST_PLATFORM_PUBLIC_KEYS: JSON.stringify(platformKey.publicKeys),
    SESSION_IDLE_DAYS: String(idleDays),
    ...env,
  });
  const text = worker(
    folder,
    modules,
    `
    bindings = [${bindings}, (name = "SESSIONS", durableObjectNamespace = "AgentSessions")],
    durableObjectNamespaces = [
      (className = "AgentSessions", uniqueKey = "sessions", enableSql = true)],
    durableObjectStorage = (localDisk = "disk")`,
  );
  return `(name = "sessions", worker = ${text}),
    (name = "disk", disk = (path = "${disk}", writable = true))`;
}

/** The session Worker in a process of its own: public on a port, private on a unix socket. */
export async function startSessions({ disk, idleDays = 30, env = {} }) {
  const folder = temporaryFolder();
  const socket = join(folder, "private.sock");
  const workerd = await startWorkerd(
    folder,
    `(
    services = [${sessionsWorker(folder, disk, idleDays, env)}],
    sockets = [
      (name = "public", address = "127.0.0.1:0", http = (), service = "sessions"),
      (name = "one", address = "127.0.0.1:0", http = (),
        service = (name = "sessions", entrypoint = "one")),
      (name = "any", address = "127.0.0.1:0", http = (),
        service = (name = "sessions", entrypoint = "any")),
      (name = "private", address = "unix:${socket}", http = (),
        service = (name = "sessions", entrypoint = "internal"))])`,
  );
  const url = `http://127.0.0.1:${workerd.ports.public}`;
  return {
    socket,
    url,
    /** Asks a public operation of the deployer's. */
    async ask(operation, body, header = platformKey.header("sessions", JSON.stringify(body))) {
      const headers = { "X-Webhost-Platform-Signature": header };
      const path = `/any/prefix/__webhost/sessions/${operation}`;
      return await fetch(url + path, { method: "POST", body: JSON.stringify(body), headers });
    },
    /** Asks as a front bound with the props of "one" agent, or of "any", would. */
    async as(front, operation, body, headers = {}) {
      const address = `http://127.0.0.1:${workerd.ports[front]}/v1/${operation}`;
      return await fetch(address, { method: "POST", body: JSON.stringify(body), headers });
    },
    stop: workerd.stop,
  };
}

/** One agent's front and script, with this customer module; its session store is behind
 *  `sessions.socket`, or, when `sessions` is absent, in the same process. */
export async function startAgent(source, { outside, sessions, disk, env = {}, ...ids } = {}) {
  const folder = temporaryFolder();
  const agentId = ids.agentId ?? "agt_1";
  const deploymentId = ids.deploymentId ?? "dep_1";
  const secret = randomBytes(32);
  const header = `(name = "${AGENT_HEADER}", value = "${agentId}")`;
  const props = `props = (json = ${JSON.stringify(JSON.stringify({ agentId }))})`;
  const store = sessions
    ? `(name = "sessions", external = (address = "unix:${sessions.socket}",
        http = (injectRequestHeaders = [${header}])))`
    : sessionsWorker(folder, disk, 30);
  const binding = sessions ? `"sessions"` : `(name = "sessions", ${props})`;
  const workerd = await startWorkerd(
    folder,
    `(
    services = [
      (name = "front", worker = ${frontWorker(folder, { agentId, deploymentId, secret, outside }, binding)}),
      (name = "agent", worker = ${agentWorker(folder, source, { OUTSIDE: outside.url, ...env })}),
      ${store},
      (name = "internet", network = (allow = ["public", "private"]))],
    sockets = [(name = "public", address = "127.0.0.1:0", http = (), service = "front")])`,
  );
  const url = `http://127.0.0.1:${workerd.ports.public}`;
  return new Agent({
    url,
    deploymentId,
    agentId,
    secret,
    log: workerd.log,
    stop: workerd.stop,
  });
}

function frontWorker(folder, { agentId, deploymentId, secret, outside }, sessionsBinding) {
  const bindings = textBindings({
    TELEMETRY_SECRET: secret.toString("base64url"),
    TELEMETRY_REPORT_URL: `${outside.url}/telemetry`,
    USER_ID: "usr_1",
    AGENT_ID: agentId,
    DEPLOYMENT_ID: deploymentId,
    RUNTIME_PROVIDER: "cloudflare",
    WEBHOST_INVOKE_PUBLIC_KEYS: JSON.stringify({
      ...retiringInvokeKey.publicKeys,
      ...invokeKey.publicKeys,
    }),
    WEBHOST_PLATFORM_PUBLIC_KEYS: JSON.stringify(platformKey.publicKeys),
  });
  return worker(
    folder,
    platformModules("webhost-front.mjs"),
    `
    bindings = [${bindings}, (name = "WEBHOST_SESSIONS", service = ${sessionsBinding}),
      (name = "WEBHOST_AGENT", service = "agent")]`,
    ["enable_request_signal"],
  );
}

function agentWorker(folder, source, env) {
  const modules = {
    ...platformModules("webhost-agent.mjs"),
    "webhost-customer.mjs": `export { default } from "./main.mjs";
      export const invokePath = "/talk";`,
    "main.mjs": source,
  };
  return worker(folder, modules, `bindings = [${textBindings(env)}]`);
}

class Agent {
  constructor(parts) {
    Object.assign(this, parts);
  }

  /** A call as the gateway makes it. */
  async invoke(text, { stream = false, signal, traceparent, ...fields } = {}) {
    const body = JSON.stringify({ ...callOf(text), ...fields });
    return await this.post(
      "/invoke",
      body,
      {
        "X-Webhost-Invoke-Signature": invokeKey.header(this.deploymentId, body),
        Accept: stream ? "text/event-stream" : "application/json",
        ...(traceparent === undefined ? {} : { traceparent }),
      },
      signal,
    );
  }

  async post(path, body, headers, signal) {
    const url = `${this.url}/dep/${this.deploymentId}${path}`;
    return await fetch(url, { method: "POST", body, headers, signal });
  }

  async answer(text, fields) {
    const response = await this.invoke(text, fields);
    const body = await response.json();
    if (response.status !== 200) throw new Error(JSON.stringify(body));
    return body;
  }

  async events(text, fields) {
    const events = [];
    for await (const event of readEvents(await this.invoke(text, { stream: true, ...fields }))) {
      events.push(event);
    }
    return events;
  }
}

export function callOf(text) {
  return {
    protocol: "invoke/v1",
    invocationId: `inv_${randomBytes(6).toString("hex")}`,
    traceId: "trace-1",
    admittedAtMs: Date.now(),
    timeoutMs: 60_000,
    input: { messages: [{ role: "user", content: text }] },
  };
}

/** The SSE events of a response as they arrive. */
export async function* readEvents(response) {
  let rest = "";
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const frames = (rest + text).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const match = /^event: (\w+)\ndata: (.*)$/s.exec(frame);
      if (match) yield { name: match[1], data: JSON.parse(match[2]) };
      else if (frame !== ":") throw new Error(`not an event: ${frame}`);
    }
  }
}

export const joined = (events) =>
  events
    .filter(({ name }) => name === "delta")
    .map(({ data }) => data.text)
    .join("");
