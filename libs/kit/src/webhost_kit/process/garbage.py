"""How often a process that makes objects by the thousand looks for cycles among them."""

import gc

NEW = 50_000
"""A batch of facts is some 30,000 objects, a call some hundreds; they are gone with it, and hardly
one is part of a cycle."""
OLDER = 5


def collect_less() -> None:
    """Collect from now on: leave out what there is so far, look for cycles once in NEW new objects.

    By default Python looks once in 700, through all that a batch holds again and again: half of the
    time of a fold, a tenth of a call's. To be called once a process is composed.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(NEW, OLDER, OLDER)
