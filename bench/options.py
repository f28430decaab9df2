"""How long and how much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """`runs` of `seconds` each; `full` measures the sizes that take minutes to set up, `short` as
    little as shows that each benchmark works.
    """

    runs: int
    seconds: int
    full: bool
    short: bool = False
