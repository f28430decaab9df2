"""A port that was chosen stays its chooser's until that process ends."""

import secrets
import subprocess
import sys

import pytest
from webhost_local import ports

CHOOSER = """
import sys
from webhost_local import ports
ports._RANGE = range(int(sys.argv[1]), int(sys.argv[1]) + 2)
print(ports.free_port(), flush=True)
sys.stdin.read()
"""


def test_two_processes_never_choose_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # A pair of its own, also beside another run of this test.
    starts = iter(lambda: 10_000 + secrets.randbelow(9_000), None)
    first = next(port for port in starts if ports.is_free(port) and ports.is_free(port + 1))
    monkeypatch.setattr(ports, "_RANGE", range(first, first + 2))
    command = [sys.executable, "-c", CHOOSER, str(first)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        mine = ports.free_port()
        assert {mine, theirs} == {first, first + 1}
        assert not ports.reserve(theirs)
        with pytest.raises(OSError, match="no free port"):
            ports.free_port()
        other.communicate()
    assert ports.reserve(theirs), "what a process reserved is free when it has ended"
