// One Durable Object per agent and shard: a part of one agent's sessions, in SQLite.
//
// A session id is `ses_`, its shard as two hex digits, and 128 random bits. New ids spread over
// SHARDS shards; the form leaves room for 256. The number may grow, never shrink: a purge asks
// each shard once.
//
// Guarantees: every operation is one transaction; a session unused for SESSION_IDLE_DAYS counts as
// unknown, and is removed by the alarm; after a purge every operation answers SESSION_EXPIRED. A
// shard holds a bounded number of sessions and bytes: those unused for longest make room, never the
// one that the operation is about.

import { DurableObject } from "cloudflare:workers";

export const SHARDS = 16;

const SESSION_ID = /^ses_([0-9a-f]{2})[0-9a-f]{32}$/;
const DAY_MS = 86_400_000;
const DEFAULT_IDLE_DAYS = 30;

const KEY_LENGTH = 512;
const VALUE_BYTES = 128 * 1024;
const KEYS_PER_SESSION = 1_000;
const STATE_BYTES = 4 * 1024 * 1024;
const HISTORY_MESSAGES = 200;
const HISTORY_CHARACTERS = 1024 * 1024;
// A longer message is truncated, so that its row can be stored.
const MESSAGE_CHARACTERS = 128 * 1024;

const SHARD_SESSIONS = 10_000;
const SHARD_BYTES = 64 * 1024 * 1024;

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, used_at_ms INTEGER NOT NULL);
  CREATE INDEX IF NOT EXISTS sessions_by_use ON sessions (used_at_ms);
  CREATE TABLE IF NOT EXISTS state (
    session_id TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (session_id, key)) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS messages (
    session_id TEXT NOT NULL, position INTEGER NOT NULL, role TEXT NOT NULL,
    content TEXT NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (session_id, position)) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS tombstone (purged_at_ms INTEGER NOT NULL);
`;

/** The shard that an id names, a random one for no id, null for what cannot be an id of ours. */
export function shardOf(sessionId) {
  if (sessionId === undefined || sessionId === null) {
    return crypto.getRandomValues(new Uint8Array(1))[0] % SHARDS;
  }
  const shard = parseInt(SESSION_ID.exec(sessionId)?.[1], 16);
  return shard < SHARDS ? shard : null;
}

class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.answer = { status, error: { code, message, retryable: false, details: {} } };
  }
}

const expired = () => new Refusal(410, "SESSION_EXPIRED", "There is no such session.");
const invalid = (message) => new Refusal(400, "INVALID_REQUEST", message);
const overLimit = (message) => new Refusal(413, "SESSION_LIMIT", message);

export class AgentSessions extends DurableObject {
  #idleMs;
  #mostSessions;
  #mostBytes;
  /** How many sessions there are; null where that has to be counted again. */
  #sessions = null;
  #operations = {
    __proto__: null,
    open: (shard, body) => this.#open(shard, body),
    append: (_, body) => this.#append(body),
    get: (_, body) => this.#get(body),
    put: (_, body) => this.#put(body),
    delete: (_, body) => this.#delete(body),
    list: (_, body) => this.#list(body),
    history: (_, body) => this.#history(body),
  };

  constructor(ctx, env) {
    super(ctx, env);
    this.#idleMs = Number(env.SESSION_IDLE_DAYS ?? DEFAULT_IDLE_DAYS) * DAY_MS;
    this.#mostSessions = Number(env.SESSIONS_PER_SHARD ?? SHARD_SESSIONS);
    this.#mostBytes = Number(env.SESSION_BYTES_PER_SHARD ?? SHARD_BYTES);
    this.#sql(SCHEMA);
  }

  /** One operation of the protocol: its answer with `status`, refusals included. */
  async perform(operation, shard, body) {
    try {
      const answer = this.ctx.storage.transactionSync(() => {
        if (this.#first("SELECT 1 FROM tombstone") !== undefined) throw expired();
        return this.#operations[operation](shard, body);
      });
      if (operation === "open") await this.#scheduleSweep();
      return { status: 200, ...answer };
    } catch (error) {
      this.#sessions = null;
      if (error instanceof Refusal) return error.answer;
      throw error;
    }
  }

  /** Removes everything but a tombstone, by which a running call cannot create sessions again. */
  async purge() {
    this.ctx.storage.transactionSync(() => {
      for (const table of ["sessions", "state", "messages", "tombstone"]) {
        this.#sql(`DELETE FROM ${table}`);
      }
      this.#sql("INSERT INTO tombstone VALUES (?)", Date.now());
    });
    this.#sessions = null;
    await this.ctx.storage.deleteAlarm();
  }

  async alarm() {
    this.ctx.storage.transactionSync(() => {
      const idle = "SELECT id FROM sessions WHERE used_at_ms <= ?";
      this.#remove(idle, Date.now() - this.#idleMs);
    });
    this.#sessions = null;
    await this.#scheduleSweep();
  }

  async #scheduleSweep() {
    if ((await this.ctx.storage.getAlarm()) !== null) return;
    const oldest = this.#first("SELECT min(used_at_ms) AS at_ms FROM sessions").at_ms;
    if (oldest !== null) await this.ctx.storage.setAlarm(oldest + this.#idleMs);
  }

  #open(shard, { sessionId }) {
    if (sessionId !== undefined && sessionId !== null) {
      this.#touch(sessionId);
      return { sessionId };
    }
    const random = crypto.getRandomValues(new Uint8Array(16));
    const id =
      "ses_" + [shard, ...random].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    this.#sessions ??= this.#first("SELECT count(*) AS number FROM sessions").number;
    this.#sql("INSERT INTO sessions VALUES (?, ?)", id, Date.now());
    this.#sessions += 1;
    if (this.#sessions > this.#mostSessions)
      this.#removeOldest(id, this.#sessions - this.#mostSessions);
    return { sessionId: id };
  }

  #makeRoom(sessionId) {
    while (this.ctx.storage.sql.databaseSize > this.#mostBytes) {
      if (this.#removeOldest(sessionId, 1) === 0) return;
    }
  }

  /** Removes this many others, those unused for longest; returns how many there were. */
  #removeOldest(sessionId, number) {
    const oldest = "SELECT id FROM sessions WHERE id <> ? ORDER BY used_at_ms LIMIT ?";
    const removed = this.#remove(oldest, sessionId, number);
    if (this.#sessions !== null) this.#sessions -= removed;
    return removed;
  }

  /** Removes the sessions whose ids this query finds; returns how many. */
  #remove(query, ...values) {
    const ids = this.#rows(query, ...values).map(({ id }) => id);
    for (const id of ids) {
      this.#sql("DELETE FROM state WHERE session_id = ?", id);
      this.#sql("DELETE FROM messages WHERE session_id = ?", id);
      this.#sql("DELETE FROM sessions WHERE id = ?", id);
    }
    return ids.length;
  }

  #append({ sessionId, messages }) {
    this.#touch(sessionId);
    const valid = (m) => typeof m?.role === "string" && typeof m.content === "string";
    if (!Array.isArray(messages) || !messages.every(valid))
      throw invalid("messages are not valid.");
    const last = "SELECT max(position) AS position FROM messages WHERE session_id = ?";
    let position = this.#first(last, sessionId).position ?? 0;
    for (const { role, content } of messages.slice(-HISTORY_MESSAGES)) {
      const kept = content.slice(0, MESSAGE_CHARACTERS);
      const insert = "INSERT INTO messages VALUES (?, ?, ?, ?, ?)";
      this.#sql(insert, sessionId, ++position, role, kept, Date.now());
    }
    this.#trimHistory(sessionId);
    this.#makeRoom(sessionId);
    return {};
  }

  #trimHistory(sessionId) {
    const newestFirst = `SELECT position, length(content) AS size FROM messages
      WHERE session_id = ? ORDER BY position DESC`;
    let count = 0;
    let characters = 0;
    for (const { position, size } of this.#rows(newestFirst, sessionId)) {
      count += 1;
      characters += size;
      if (count > HISTORY_MESSAGES || characters > HISTORY_CHARACTERS) {
        const older = "DELETE FROM messages WHERE session_id = ? AND position <= ?";
        this.#sql(older, sessionId, position);
        return;
      }
    }
  }

  #get({ sessionId, key }) {
    this.#require(sessionId);
    const one = "SELECT value FROM state WHERE session_id = ? AND key = ?";
    const row = this.#first(one, sessionId, validKey(key));
    return row === undefined ? {} : { value: JSON.parse(row.value) };
  }

  #put({ sessionId, key, value }) {
    this.#require(sessionId);
    if (value === undefined) throw invalid("A value must be JSON; undefined is not.");
    const text = JSON.stringify(value);
    const bytes = new TextEncoder().encode(text).length;
    if (bytes > VALUE_BYTES) throw overLimit("A value is at most 128 KiB of JSON.");
    const upsert = "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)";
    this.#sql(upsert, sessionId, validKey(key), text, bytes);
    const totals = "SELECT count(*) AS keys, sum(bytes) AS bytes FROM state WHERE session_id = ?";
    const { keys, bytes: sum } = this.#first(totals, sessionId);
    if (keys > KEYS_PER_SESSION) throw overLimit("A session holds at most 1,000 keys.");
    if (sum > STATE_BYTES) throw overLimit("A session holds at most 4 MiB of values.");
    this.#makeRoom(sessionId);
    return {};
  }

  #delete({ sessionId, key }) {
    this.#require(sessionId);
    const one = "DELETE FROM state WHERE session_id = ? AND key = ? RETURNING key";
    return { deleted: this.#first(one, sessionId, validKey(key)) !== undefined };
  }

  #list({ sessionId, prefix = "" }) {
    this.#require(sessionId);
    if (typeof prefix !== "string") throw invalid("prefix is not text.");
    const keys = `SELECT key FROM state
      WHERE session_id = ? AND substr(key, 1, length(?)) = ? ORDER BY key`;
    return { keys: this.#rows(keys, sessionId, prefix, prefix).map((row) => row.key) };
  }

  #history({ sessionId }) {
    this.#require(sessionId);
    const all = `SELECT role, content, at_ms AS atMs FROM messages
      WHERE session_id = ? ORDER BY position`;
    return { messages: this.#rows(all, sessionId) };
  }

  #require(sessionId) {
    const row = this.#first("SELECT used_at_ms FROM sessions WHERE id = ?", String(sessionId));
    if (row === undefined || row.used_at_ms + this.#idleMs <= Date.now()) throw expired();
  }

  #touch(sessionId) {
    this.#require(sessionId);
    this.#sql("UPDATE sessions SET used_at_ms = ? WHERE id = ?", Date.now(), sessionId);
  }

  #sql(statement, ...values) {
    return this.ctx.storage.sql.exec(statement, ...values);
  }

  #rows(statement, ...values) {
    return this.#sql(statement, ...values).toArray();
  }

  #first(statement, ...values) {
    return this.#rows(statement, ...values)[0];
  }
}

function validKey(key) {
  const valid = typeof key === "string" && key !== "" && key.length <= KEY_LENGTH;
  if (!valid) throw invalid("A key is text of 1 to 512 characters.");
  return key;
}
