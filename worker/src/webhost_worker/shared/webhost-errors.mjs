// The platform's own errors, and the one envelope that carries them:
// {"error": {"code", "message", "retryable", "details"}}.

const MESSAGE_LIMIT = 300;

export class PlatformError extends Error {
  constructor(status, code, message, { retryable = false, details = {}, headers = {} } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryable = retryable;
    this.details = details;
    this.headers = headers;
  }

  envelope() {
    const { code, message, retryable, details } = this;
    return { error: { code, message, retryable, details } };
  }

  toResponse() {
    return Response.json(this.envelope(), { status: this.status, headers: this.headers });
  }
}

export const notFound = () => new PlatformError(404, "NOT_FOUND", "Nothing is served here.");

export const methodNotAllowed = () =>
  new PlatformError(405, "METHOD_NOT_ALLOWED", "Only POST is allowed.", {
    headers: { Allow: "POST" },
  });

// One answer for every failed authentication, so that it tells an attacker nothing.
export const unauthenticated = () =>
  new PlatformError(401, "UNAUTHENTICATED", "A valid signature is required.");

export const payloadTooLarge = () =>
  new PlatformError(413, "PAYLOAD_TOO_LARGE", "The body is over 2 MiB.");

export const invalidRequest = (message) => new PlatformError(400, "INVALID_REQUEST", message);

export const runtimeError = (message) => new PlatformError(500, "RUNTIME_ERROR", message);

export const sessionExpired = () =>
  new PlatformError(410, "SESSION_EXPIRED", "The session does not exist or has expired.");

export const storeUnavailable = () =>
  new PlatformError(503, "UNAVAILABLE", "The session store does not answer.", { retryable: true });

/** What the session store refused; customer code may catch it and read `code`. */
export class SessionError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** What the caller may see of an error that came out of running the agent. */
export function agentFailure(error, userEnv) {
  if (error instanceof PlatformError) return error;
  if (error instanceof SessionError && error.code === "SESSION_EXPIRED") return sessionExpired();
  return runtimeError(redact(describe(error), userEnv));
}

function describe(error) {
  try {
    return String(error instanceof Error ? error.message : error) || "The agent failed.";
  } catch {
    return "The agent failed.";
  }
}

function redact(message, userEnv) {
  let text = message;
  for (const value of Object.values(userEnv)) {
    if (typeof value === "string" && value.length >= 6) text = text.replaceAll(value, "[redacted]");
  }
  return text
    .replace(/Bearer\s+\S+/gi, "Bearer [redacted]")
    .replace(/\bsk-[A-Za-z0-9_-]+/g, "[redacted]")
    .slice(0, MESSAGE_LIMIT);
}
