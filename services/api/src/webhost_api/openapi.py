"""`python -m webhost_api.openapi` prints docs/openapi.json."""

import json
import sys

from webhost_api.app import build


def document() -> str:
    """Return the description of the HTTP interface, the same text for the same interface."""
    return json.dumps(build().openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
