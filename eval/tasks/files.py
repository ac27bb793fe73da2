"""Data sets on disk: what must be there, by what names and sizes it is known, and its images."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from stillhouse.core.errors import DataError, MissingError
from stillhouse.storage.decode import decode


def require(root: Path, *parts: str, what: str) -> Path:
    """`root/parts` if it is there.

    Raises:
        MissingError: it is not; names the first folder or file on the way that is missing.
    """
    path = root
    for part in ("", *parts):
        path = path / part
        if not path.exists():
            unpacked = f"{what} needs {root.joinpath(*parts)}"
            raise MissingError(f"{path} is not there: {unpacked}", hint="unpack the whole data set, or correct `path`")
    return path


def require_files(root: Path, names: Sequence[str], what: str) -> list[Path]:
    """The files `root/name`, in order.

    Raises:
        MissingError: some are not there; says how many and names the first.
    """
    paths = [root / name for name in names]
    lost = [path for path in paths if not path.is_file()]
    if lost:
        message = f"{len(lost):,} of {len(paths):,} files of {what} are not there; the first is {lost[0]}"
        raise MissingError(message, hint="the data set is unpacked in part only: unpack it again")
    return paths


def files_sha256(root: Path, paths: Iterable[Path]) -> str:
    """A digest of names below `root` and sizes: cheap, and another when files were added, removed or cut short."""
    digest = hashlib.sha256()
    for path in paths:
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{path.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_image(path: Path) -> Image.Image:
    """An image as RGB by the rule of `storage/decode.py`; DataError names the file."""
    try:
        return decode(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error.message}", hint=error.hint) from error
