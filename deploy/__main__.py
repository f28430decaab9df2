"""`python -m deploy check` checks the manifests.

`python -m deploy check PATH` checks an overlay of your own, says what is still to be filled in, and
warns of what is allowed and seldom meant.

`python -m deploy secrets` prints the Secrets of an installation, `roles` makes its roles in a
Postgres elsewhere: see `deploy.secrets` and `deploy.roles`.
"""

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy import (
    connections_check,
    environment_check,
    policy_check,
    reference_check,
    rendering,
    roles,
    schema_check,
    secrets,
)


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    match arguments:
        case ["--help" | "-h"]:
            print(__doc__)
        case ["check"]:
            _end(check())
        case ["check", path]:
            objects = rendering.kustomize(Path(path))
            for warning in policy_check.trusted_widely(objects):
                print(f"warning: {warning}", file=sys.stderr)
            _end((*_problems(objects, objects), *policy_check.left_over(objects)))
        case ["secrets", *options]:
            secrets.main(options)
        case ["roles", *services]:
            roles.main(services)
        case _:
            sys.exit(__doc__)


def check() -> Iterator[str]:
    """Yield everything that is wrong, with the variant that it is found in."""
    seen: list[rendering.Object] = []
    with ThreadPoolExecutor(2) as pool:
        rendered = list(pool.map(rendering.render, rendering.VARIANTS))
    for variant, objects in zip(rendering.VARIANTS, rendered, strict=True):
        new = [found for found in objects if found not in seen]
        seen += new
        for problem in _problems(objects, new):
            yield f"{variant}: {problem}"
        if variant == "production":
            yield from environment_check.unnamed(objects)


def _problems(objects: list[rendering.Object], new: list[rendering.Object]) -> Iterator[str]:
    yield from schema_check.problems(new)
    yield from policy_check.problems(objects)
    yield from policy_check.drain_problems(objects, environment_check.longest_call_s(objects))
    yield from environment_check.problems(objects)
    yield from connections_check.problems(objects)
    yield from reference_check.problems(objects)


def _end(problems: Iterable[str]) -> None:
    found = dict.fromkeys(problems)
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
