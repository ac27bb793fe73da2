"""Runs a command until whoever started us is gone, then kills the command with all that it started, and cleans up.

`python guard.py LEFTOVERS COMMAND ...` with a pipe as stdin; LEFTOVERS are the paths, joined by ":", of files that the
command leaves behind when it is killed. The pipe closes when the starter closes it, and also when the starter dies,
however that happens; a fork of the starter may hold the pipe open, so our parent's id is looked at too.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence

LOOK_SECONDS = 0.2


def guard(leftovers: Sequence[str], command: Sequence[str]) -> int:
    """The command's exit status."""
    starter = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` runs
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while child.poll() is None and os.getppid() == starter:
            if select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
                break
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:  # it ended by itself, and so did its children
            pass
        child.wait()
        for path in leftovers:
            if os.path.lexists(path):
                os.unlink(path)
    return child.returncode


if __name__ == "__main__":
    sys.exit(guard([path for path in sys.argv[1].split(":") if path], sys.argv[2:]))
