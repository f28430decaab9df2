"""The channel on which workerd reports: its descriptor is closed once."""

import subprocess
import sys

# The event loop ends channels while threads open and close files, as uploads do.
PROGRAM = """
import asyncio, os, threading, uvloop
from webhost_local.edge.process import control_channel

done = False

def files():
    while not done:
        for descriptor in [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]:
            os.close(descriptor)

async def channels():
    for _ in range(1_000):
        reader, writer, theirs = await control_channel()
        theirs.close()
        writer.close()
        await asyncio.sleep(0)

threads = [threading.Thread(target=files) for _ in range(4)]
for thread in threads:
    thread.start()
try:
    uvloop.run(channels())
finally:
    done = True
"""


def test_no_file_of_another_thread_is_closed() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
