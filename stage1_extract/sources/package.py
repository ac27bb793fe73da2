"""Images that an installed Python package carries as files. The package is found, never imported."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from stillhouse.core.errors import DataError, missing_package

from .base import key_fault
from .folder import FolderReader, FolderSource, ImageFiles


class PackageSource(ImageFiles):
    """A folder of image files inside an installed package; for data that comes with `pip install`."""

    kind: Literal["package"] = "package"
    package: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The package's import name."""
    folder: str
    """The folder inside it, such as `data/images`."""

    @field_validator("folder")
    @classmethod
    def _inside(cls, folder: str) -> str:
        if fault := key_fault(folder):
            raise ValueError(f"a path inside the package, but it {fault}")
        return folder


def package_reader(config: PackageSource) -> FolderReader:
    """Reads a `PackageSource` as the folder that it is.

    Raises:
        ResourceError: the package is not installed.
        DataError: it has no such folder.
    """
    where = f"source package {config.package}:{config.folder}"
    spec = find_spec(config.package)
    if spec is None:
        raise missing_package(config.package)
    folders = [Path(place) / config.folder for place in spec.submodule_search_locations or ()]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataError(f"{where}: the package has no such folder", hint=f"look inside {spec.origin or folders}")
    folder = FolderSource(path=found, recursive=config.recursive, extensions=config.extensions, label=config.label)
    return FolderReader(folder, where)
