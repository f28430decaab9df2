"""Filters of subjects: what the server selects for several of them, and what the reader does."""

import re
from collections.abc import Sequence


def in_common(subjects: Sequence[str]) -> str:
    """Return the narrowest filter that selects all of these, by their leading tokens."""
    if len(subjects) == 1:
        return subjects[0]
    leading: list[str] = []
    # Without their last tokens: `a.>` does not select `a`.
    for tokens in zip(*(subject.split(".")[:-1] for subject in subjects), strict=False):
        if len(set(tokens)) > 1 or tokens[0] == ">":
            break
        leading.append(tokens[0])
    return ".".join([*leading, ">"])


def pattern(subjects: Sequence[str]) -> re.Pattern[str]:
    """Return what a subject matches if one of these filters selects it."""
    tokens = {"*": r"[^.]+", ">": r".+"}
    filters = (r"\.".join(tokens.get(t) or re.escape(t) for t in s.split(".")) for s in subjects)
    return re.compile("|".join(filters))
