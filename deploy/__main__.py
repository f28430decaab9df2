"""`python -m deploy check` checks the manifests, `write` writes what is generated in them.

`python -m deploy secrets` prints the Secrets of an installation, `roles` makes its roles in a
Postgres elsewhere: see `deploy.secrets` and `deploy.roles`.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from deploy import (
    connections_check,
    environment_check,
    generated,
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
        case ["check"]:
            found = dict.fromkeys(check())
            sys.exit("\n".join(found) if found else 0)
        case ["write"]:
            generated.write()
        case ["secrets", *options]:
            secrets.main(options)
        case ["roles", *services]:
            roles.main(services)
        case ["--help" | "-h"]:
            print(__doc__)
        case _:
            sys.exit(__doc__)


def check() -> Iterator[str]:
    """Yield everything that is wrong, with the variant that it is found in."""
    yield from generated.problems()
    seen: list[rendering.Object] = []
    with ThreadPoolExecutor(2) as pool:
        rendered = list(pool.map(rendering.render, rendering.VARIANTS))
    for variant, objects in zip(rendering.VARIANTS, rendered, strict=True):
        new = [found for found in objects if found not in seen]
        seen += new
        for problem in (
            *schema_check.problems(new),
            *policy_check.problems(objects),
            *policy_check.drain_problems(objects, environment_check.longest_call_s(objects)),
            *environment_check.problems(objects),
            *connections_check.problems(objects),
            *reference_check.problems(objects),
        ):
            yield f"{variant}: {problem}"
        if variant == "production":
            yield from environment_check.unnamed(objects)


if __name__ == "__main__":
    main(sys.argv[1:])
