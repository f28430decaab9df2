"""`python -m deploy check` checks the manifests.

`python -m deploy secrets` prints the Secrets of a new installation: see `deploy.secrets`.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from deploy import environment_check, policy_check, rendering, schema_check, secrets


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    match arguments:
        case ["check"]:
            found = dict.fromkeys(check())
            sys.exit("\n".join(found) if found else 0)
        case ["secrets", *options]:
            secrets.main(options)
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
        for problem in (
            *schema_check.problems(new),
            *policy_check.problems(objects),
            *policy_check.drain_problems(objects, environment_check.longest_call_s(objects)),
            *environment_check.problems(objects),
        ):
            yield f"{variant}: {problem}"
        if variant == "production":
            yield from environment_check.unnamed(objects)


if __name__ == "__main__":
    main(sys.argv[1:])
