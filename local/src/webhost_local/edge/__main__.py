"""Run the local edge: load settings, serve."""

import logging
import sys

import uvloop
from pydantic import ValidationError

from webhost_local.edge.app import run
from webhost_local.edge.errors import EdgeError
from webhost_local.edge.settings import EdgeSettings


def main() -> int:
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    try:
        settings = EdgeSettings()  # type: ignore[call-arg]
        uvloop.run(run(settings))
    except ValidationError as error:
        problems = (
            f"EDGE_{'_'.join(map(str, e['loc'])).upper().removeprefix('EDGE_')}: {e['msg']}"
            for e in error.errors()
        )
        print("the edge cannot start: " + "; ".join(problems), file=sys.stderr)
        return 2
    except (EdgeError, OSError) as error:
        print(f"the edge cannot start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
