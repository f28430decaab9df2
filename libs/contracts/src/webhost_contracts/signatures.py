"""What is signed between the parts, byte for byte, and the headers that carry it.

| who signs         | who verifies     | algorithm   | over                            |
|-------------------|------------------|-------------|---------------------------------|
| gateway           | Worker           | Ed25519     | `<t>.<deploymentId>.<body>`     |
| deployer          | Worker (probe)   | Ed25519     | `<t>.<deploymentId>.<body>`     |
| deployer          | session Worker   | Ed25519     | `<t>.sessions.<body>`           |
| Worker            | telemetry-ingest | HMAC-SHA256 | the raw body                    |
| delegation source | gateway          | HMAC-SHA256 | the raw body                    |

`t` is Unix milliseconds; a signature is good for a minute to either side.
"""

import hashlib
import hmac

INVOKE_SIGNATURE_HEADER = "X-Webhost-Invoke-Signature"
PLATFORM_SIGNATURE_HEADER = "X-Webhost-Platform-Signature"
TELEMETRY_DEPLOYMENT_HEADER = "X-Telemetry-Deployment-Id"
TELEMETRY_SIGNATURE_HEADER = "X-Telemetry-Signature"
DELEGATION_SOURCE_HEADER = "X-WHS-Delegation-Source"
DELEGATION_TIMESTAMP_HEADER = "X-WHS-Delegation-Timestamp"
DELEGATION_SIGNATURE_HEADER = "X-WHS-Delegation-Signature"

SESSIONS_AUDIENCE = "sessions"

_SCHEME = b"v1="


def signed_bytes(timestamp_ms: int, audience: str, body: bytes) -> bytes:
    """Return what an Ed25519 signature covers; the audience is a deployment id or `sessions`."""
    return f"{timestamp_ms}.{audience}.".encode() + body


def signature_header(timestamp_ms: int, key_id: str, signature: bytes) -> str:
    """Return the value of an invoke or platform signature header."""
    return f"t={timestamp_ms},kid={key_id},v1={signature.hex()}"


def telemetry_signature(key: bytes, body: bytes) -> str:
    """Return the value of the telemetry signature header for the raw body."""
    return _signature(key, body)


def telemetry_signature_matches(key: bytes, body: bytes, header: bytes) -> bool:
    """Compare, in constant time, the header with what this key says of the raw body."""
    return _matches(key, body, header)


def delegation_signature(secret: bytes, body: bytes) -> str:
    """Return the value of the delegation signature header for the raw body."""
    return _signature(secret, body)


def delegation_signature_matches(secret: bytes, body: bytes, header: bytes) -> bool:
    """Compare, in constant time, the header with what this secret says of the raw body."""
    return _matches(secret, body, header)


def _signature(key: bytes, body: bytes) -> str:
    return f"v1={hmac.new(key, body, hashlib.sha256).hexdigest()}"


def _matches(key: bytes, body: bytes, header: bytes) -> bool:
    expected = hmac.new(key, body, hashlib.sha256).hexdigest().encode()
    scheme, given = header[: len(_SCHEME)], header[len(_SCHEME) :]
    return hmac.compare_digest(given, expected) and scheme == _SCHEME
