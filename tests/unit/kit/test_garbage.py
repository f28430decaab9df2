"""A service's process collects no garbage while it imports, and does once it is composed."""

import subprocess
import sys

PROBE = """
import webhost_kit.process.lean
import gc, weakref
from webhost_kit.process.garbage import NEW, collect_less
assert not gc.isenabled()
collect_less()
assert gc.get_freeze_count() > 1000
class Knot: pass
knot = Knot()
knot.itself = knot
seen = weakref.ref(knot)
del knot
assert seen() is not None
made = [[] for _ in range(NEW // 2)]
assert seen() is not None
made += [[] for _ in range(NEW)]
assert seen() is None
"""


def test_what_was_there_is_left_out_and_new_cycles_are_found() -> None:
    subprocess.run([sys.executable, "-c", PROBE], check=True, timeout=60)
