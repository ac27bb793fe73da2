"""Label files that came as Matlab 5 matrices: plain arrays of numbers and text, nothing that is executed."""

from pathlib import Path
from typing import Any

from stillhouse.core.errors import CorruptError, MissingError, one_line


def read_matrix(path: Path, name: str, what: str) -> Any:
    """The variable `name` of a .mat file, without axes of length 1.

    Raises:
        MissingError: no such file.
        CorruptError: it cannot be read, or has no such variable.
    """
    import scipy.io

    if not path.is_file():
        raise MissingError(f"{path} is not there: {what} needs it", hint="unpack the whole data set, or correct `path`")
    try:
        found = scipy.io.loadmat(path, squeeze_me=True, variable_names=[name])
    except Exception as error:  # scipy's reader raises nearly anything on broken bytes
        raise CorruptError(f"{path}: {one_line(error)}", hint="download it again") from error
    if name not in found:
        raise CorruptError(f"{path} has no variable {name!r}", hint=f"download the file that belongs to {what}")
    return found[name]
