"""What a person is told of an exception that nobody has explained yet."""

from stillhouse.core.errors import Preempted, ResourceError, StillhouseError, UsageError
from stillhouse.storage.disk import disk_errors


def explained(error: BaseException) -> StillhouseError:
    """What to tell a person about any exception."""
    if isinstance(error, StillhouseError):
        return error
    if isinstance(error, KeyboardInterrupt):
        text = f"{error.args[0] if error.args else 'SIGINT'} received; what was finished is kept"
        return Preempted(text, hint="run the same command again to go on")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        text = f"out of memory: {error}".removesuffix(": ").splitlines()[0]
        return ResourceError(text, hint="make `batch` smaller, of the teacher, of distill or of eval")
    if isinstance(error, NotADirectoryError):
        return UsageError(f"{error.filename} lies below a file, not a folder", hint="correct the path in the config")
    if isinstance(error, OSError):
        try:
            with disk_errors("a file"):
                raise error
        except ResourceError as found:
            return found
        except OSError:  # none that a disk or a permission makes
            pass
    text = f"a fault of stillhouse itself, {type(error).__name__}: {error}".splitlines()[0]
    return StillhouseError(text, hint="please report it, with the lines above")
