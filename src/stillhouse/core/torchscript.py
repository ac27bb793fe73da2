"""The tensors of a TorchScript archive, without running what is in it.

OpenAI publishes CLIP as such archives: a zip with a pickle of the module tree, tensors in files of their own, and code. Only the
tree is read, by an unpickler that knows tensors and containers and takes every class of the archive for a bag of
attributes; the code is never looked at.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STORAGES: Mapping[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """True for an archive that `torch.jit.save` made."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Every tensor of the module tree, by its dotted name.

    Raises:
        pickle.UnpicklingError: the archive holds something else than modules, tensors and containers.
        KeyError: a file of the archive is not there.
    """
    with zipfile.ZipFile(path) as archive:
        (tree,) = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        found = _Reader(archive, tree.rpartition("/")[0]).load()
    return dict(_tensors(found, ""))


class _Module:
    """Any class of the archive: its attributes."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.attributes = dict(state)


class _Reader(pickle.Unpickler):
    """Knows what a module tree is made of, and nothing that runs."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        known = _KNOWN.get((module, name))
        if known is None:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a tree of modules and tensors")
        return known

    def persistent_load(self, pid: Any) -> Tensor:
        """A flat tensor: all that a storage holds."""
        _, dtype, key, _, num = pid
        data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=num) if num else torch.empty(0, dtype=dtype)


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if storage.numel() == 0:
        return storage.reshape(size)
    return torch.as_strided(storage, size, stride, offset).clone()


def _as_it_is(value: Any, *_: Any) -> Any:
    return value


_KNOWN: Mapping[tuple[str, str], type | torch.dtype | Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
    **{("torch.jit._pickle", f"build_{kind}list"): _as_it_is for kind in ("int", "tensor", "double", "bool")},
    ("torch.jit._pickle", "restore_type_tag"): _as_it_is,
}


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Module):
        for key, inner in value.attributes.items():
            yield from _tensors(inner, f"{name}.{key}" if name else key)
