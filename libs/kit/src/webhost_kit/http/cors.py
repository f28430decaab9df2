"""What a browser on an allowed origin may send and see, the same for all user endpoints."""

ALLOWED_METHODS = ("GET", "POST", "PATCH", "DELETE")
ALLOWED_HEADERS = (
    "authorization",
    "content-type",
    "idempotency-key",
    "traceparent",
    "last-event-id",
)
EXPOSED_HEADERS = ("X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy")
