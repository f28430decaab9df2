// The platform's own errors, and the one envelope that carries them:
// {"error": {"code", "message", "retryable", "details"}}.

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

export const invalidRequest = (message) => new PlatformError(400, "INVALID_REQUEST", message);

export const runtimeError = (message) => new PlatformError(500, "RUNTIME_ERROR", message);

export const sessionExpired = () =>
  new PlatformError(410, "SESSION_EXPIRED", "The session does not exist or has expired.");

export const storeUnavailable = () =>
  new PlatformError(503, "UNAVAILABLE", "The session store does not answer.", { retryable: true });

const MESSAGE_LIMIT = 300;

/** The error of an agent's own code, as far as the caller may see it. */
export function agentFailed(message) {
  const text = message
    .replace(/Bearer\s+\S+/gi, "Bearer [redacted]")
    .replace(/\b(?:sk-|whs_)[A-Za-z0-9_-]+/g, "[redacted]")
    .slice(0, MESSAGE_LIMIT);
  return runtimeError(text || "The agent failed.");
}
