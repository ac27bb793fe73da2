"""What tests of the command line start from: a tiny pipeline, and commands run here or as processes of their own.

Run as a module it is the server behind `Forks`: it imports what the commands need, once, and forks a child for each.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

PRELOADED = (
    "faiss",
    "sklearn",
    "stillhouse.eval.linear_heads",
    "stillhouse.eval.logistic_solver",
    "stillhouse.cli",
    "stillhouse.inspection",
    "stillhouse.page",
    "stillhouse.pipeline",
    "stillhouse.summary",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
    "webdataset",
)


def tiny_pipeline(folder: Path, num: int = 42) -> Path:
    """`folder/pipeline.yaml` for `num` images of 40 x 36 pixels; its images and its teacher's weights lie beside it.

    A run of it is six blocks, two views, nine training steps and cheap probes: about a second.
    """
    from stillhouse.stage1_extract.testing import TINY_VIT, TINY_VIT_ARGS, tiny_images, tiny_teacher

    images = tiny_images(folder / "images", num)
    config = {
        "name": "tiny",
        "out": str(folder / "out"),
        "ingest": {
            "source": {"kind": "folder", "path": str(images)},
            "split": {"test": 0.3},
            "block_samples": 8,
        },
        "views": {"policy": "crop_flip", "num": 2, "size": 32},
        "teachers": [tiny_teacher(folder / "weights").model_dump(mode="json", exclude_defaults=True)],
        "distill": {
            "student": {"model": TINY_VIT, "model_args": TINY_VIT_ARGS},
            "epochs": 3,
            "batch": 8,
            "warmup_epochs": 1,
            "ema": 0,
            "checkpoint_steps": 2,
            "log_steps": 2,
        },
        "eval": {
            "linear": {"iterations": 10, "learning_rates": [0.01, 0.1]},
            "logistic": {"num_c": 5},
            "bootstrap": 100,
            "pictures": 2,
            "leakage": {"cosine": 1.0, "ratio": None},  # to a teacher that knows nothing all images are alike
        },
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that is over. A negative status is the signal that killed it."""

    status: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line for people."""
        return self.err.strip().rpartition("\n")[2]

    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout; strict: no NaN, nothing beside it."""

        def refuse(word: str) -> None:
            raise ValueError(f"{word} is not JSON")

        found: dict[str, Any] = json.loads(self.out, parse_constant=refuse)
        return found


def run_here(*arguments: str | Path) -> Ended:
    """A `stillhouse` command inside this process.

    On one thread, as in `Forks`: the sums of several may differ in their last bit from one run to the next.
    """
    import torch

    from stillhouse.cli import app

    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    written = [io.BytesIO(), io.BytesIO()]
    streams = [io.TextIOWrapper(raw, "utf-8", write_through=True) for raw in written]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    status: Any = 0
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            app([str(argument) for argument in arguments], prog_name="stillhouse")
    except SystemExit as stop:
        status = stop.code
    finally:
        torch.set_num_threads(threads)
        for number, handler in before.items():
            signal.signal(number, handler)
    out, err = (raw.getvalue().decode() for raw in written)
    return Ended(int(status or 0), out, err)


class Forks:
    """Starts `stillhouse` commands as processes of their own, without seconds of imports for each. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._num = folder, 0
        self._ended: dict[int, int] = {}

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "stillhouse.testing"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer("ready")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def start(self, *arguments: str | Path, prelude: str = "") -> "Child":
        """Start a command; `prelude` is Python that its process runs first."""
        self._num += 1
        stdout, stderr = (self._folder / f"{self._num}.{name}" for name in ("out", "err"))
        request = {"argv": [str(argument) for argument in arguments], "prelude": prelude}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({**request, "stdout": str(stdout), "stderr": str(stderr)}) + "\n")
        self._server.stdin.flush()
        return Child(self, self._answer("started"), stdout, stderr)

    def run(self, *arguments: str | Path, prelude: str = "") -> Ended:
        """A command from its start to its end."""
        return self.start(*arguments, prelude=prelude).wait()

    def over(self, pid: int) -> bool:
        """True when a child has ended."""
        assert self._server.stdout is not None
        while select.select([self._server.stdout], [], [], 0)[0]:
            self._answer("ended")
        return pid in self._ended

    def wait(self, pid: int) -> int:
        """The exit status of a child."""
        while pid not in self._ended:
            self._answer("ended")
        return self._ended.pop(pid)

    def _answer(self, kind: str) -> int:
        assert self._server.stdout is not None
        while line := self._server.stdout.readline():
            answer: dict[str, int] = json.loads(line)
            if "ended" in answer:
                self._ended[answer["ended"]] = answer["status"]
            if kind in answer:
                return answer[kind]
        raise RuntimeError("the server of forks is gone")


@dataclass(frozen=True, slots=True)
class Child:
    """A running command."""

    forks: Forks
    pid: int
    stdout: Path
    stderr: Path

    def send(self, number: int) -> None:
        """Send a signal, unless the command is over."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def over(self) -> bool:
        """True when the command has ended."""
        return self.forks.over(self.pid)

    def wait(self) -> Ended:
        """What it came to."""
        status = self.forks.wait(self.pid)
        out, err = (path.read_text(encoding="utf-8") if path.exists() else "" for path in (self.stdout, self.stderr))
        return Ended(status, out, err)


def _serve() -> dict[str, Any]:
    """Fork for every request; returns only in a child, with its request."""
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    alive: set[int] = set()
    while True:
        if selector.select(0.003 if alive else None):
            line = os.read(sys.stdin.fileno(), 1 << 16)  # the client waits for an answer: never two lines at once
            if not line:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                return dict(json.loads(line))
            alive.add(pid)
            print(json.dumps({"started": pid}), flush=True)
        for pid in sorted(alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                alive.discard(pid)
                print(json.dumps({"ended": pid, "status": os.waitstatus_to_exitcode(status)}), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Take the place of a freshly started interpreter."""
    for number, name in ((1, request["stdout"]), (2, request["stderr"])):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["stillhouse", *request["argv"]]
    exec(request["prelude"], {})  # noqa: S102 - a test's own lines, such as a limit to set


def _command() -> int:
    """The exit status of `stillhouse`, when its threads are through."""
    status: Any = 0
    try:
        importlib.import_module("stillhouse.cli").main()
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:  # noqa: BLE001 - as an interpreter does at its end
        traceback.print_exc()
        status = 1
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        if not thread.daemon and thread.ident is not None:  # None: a stop came as it was being started
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    return int(status)


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    importlib.import_module("torch").set_num_threads(1)
    gc.collect()
    gc.freeze()  # a child need not copy the pages that collecting would touch
    print(json.dumps({"ready": os.getpid()}), flush=True)
    _become(_serve())
    os._exit(_command())
