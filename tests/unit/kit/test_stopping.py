"""A process that waits ends by itself when told to: the kernel would not end the first one."""

import signal
import subprocess
import sys

WAITING = """
from time import sleep
from webhost_kit.process.stopping import end_when_told
end_when_told()
print("waits", flush=True)
sleep(60)
"""


def test_a_process_that_waits_ends_by_itself() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
