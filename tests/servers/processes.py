"""Servers that are programs of their own: found, started, waited for, and gone when the tests are."""

import http.client
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")
POLL_SECONDS = 0.02


def program(name: str) -> str | None:
    """The path of a program: beside this Python (a wheel's), on PATH, or where Debian keeps servers."""
    for path in (sysconfig.get_path("scripts"), None, "/usr/sbin"):
        if found := shutil.which(name, path=path):
            return found
    return None


class ServerProcess:
    """A command in `folder`, its output in `folder/log`. It lives until `stop`, or until this process ends in any way;
    then the files `leftovers` are removed.
    """

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str], leftovers: Sequence[str] = ()):
        self.log = folder / "log"
        with open(self.log, "ab") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-E", "-S", str(GUARD), ":".join(leftovers), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(env),
                start_new_session=True,  # Ctrl-C is for the tests; they stop us
            )
        self.name = Path(command[0]).name

    @property
    def pid(self) -> int:
        """Of the guard; the server is its child."""
        return self._guard.pid

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """
        Raises:
            RuntimeError: the command ended, or was not ready in time; with the last lines of its log.
        """
        deadline = time.monotonic() + seconds
        while self._guard.poll() is None:
            if ready():
                return
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.name} was not ready after {seconds:g} s:\n{self._tail()}")
            time.sleep(POLL_SECONDS)
        self.stop()
        raise RuntimeError(f"{self.name} ended with status {self._guard.returncode}:\n{self._tail()}")

    def stop(self) -> None:
        """Killed and reaped when this returns; again is nothing."""
        if self._guard.stdin:
            self._guard.stdin.close()
        self._guard.wait()

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])


def answers(port: int, method: str = "GET", path: str = "/") -> int | None:
    """The status of an answer of 127.0.0.1:`port`; None when there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
