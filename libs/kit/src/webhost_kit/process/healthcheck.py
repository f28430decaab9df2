"""`python -m webhost_kit.process.healthcheck` ends with 0 where this process's service is ready.

For a container's health check, in an image without a shell or curl: it asks /readyz at the port of
OPS_LISTEN, or at `host:port` if one is given, and prints what it hears.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

_TIMEOUT_S = 3.0


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    address = arguments[0] if arguments else os.environ.get("OPS_LISTEN", "")
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        what = f"{address}: is not host:port" if address else "OPS_LISTEN is not set"
        sys.stdout.write(f"{what} (python -m webhost_kit.process.healthcheck [host:port])\n")
        return 1
    # Who listens on every address does so on loopback.
    host = "127.0.0.1" if host in ("", "0.0.0.0", "[::]") else host.strip("[]")  # noqa: S104
    try:
        connection = HTTPConnection(host, int(port), timeout=_TIMEOUT_S)
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        sys.stdout.write(response.read().decode(errors="replace") + "\n")
    except (OSError, ValueError, HTTPException) as error:
        sys.stdout.write(f"{address}: {error}\n")
        return 1
    return 0 if response.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
