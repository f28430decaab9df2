"""`python -m webhost_api.openapi` prints docs/openapi.json."""

import json
import sys

from webhost_api.app import build

if __name__ == "__main__":
    document = json.dumps(build().openapi(), indent=2, sort_keys=True, ensure_ascii=False)
    sys.stdout.write(document + "\n")
