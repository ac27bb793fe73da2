"""Checkpoint files: found, read without running anything in them, and loaded whole or not at all."""

import argparse
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from .errors import ResourceError, UsageError, missing_package, one_line
from .families import FAMILIES, Keys, by_timm
from .positions import PositionRule, Released, resample_positions
from .torchscript import is_torchscript, read_torchscript

PACKAGE = "package:"
WRAPPERS = ("state_dict", "model", "student", "teacher")
"""Keys under which checkpoint files are known to keep the weights beside other things."""


def find_checkpoint(where: str) -> Path:
    """The file of a checkpoint: a path, or `package:NAME/path` inside an installed Python package."""
    if not where.startswith(PACKAGE):
        path = Path(where).expanduser()
    else:
        package, _, inside = where.removeprefix(PACKAGE).partition("/")
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # the parent of a dotted name is not there, or no name at all
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise missing_package(package)
        path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.is_file():
        raise ResourceError(f"checkpoint {where}: no such file", hint="name a .safetensors or .pth file")
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name; nothing in it is executed."""
    try:
        path.open("rb").close()  # safetensors says of any file that it may not read that there is none
    except OSError as error:
        raise ResourceError(f"checkpoint {path}: {error.strerror}", hint="check the file and its rights") from error
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if is_torchscript(path):
            return read_torchscript(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # released files keep their arguments in one
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"checkpoint {path} cannot be read: {one_line(error)}", hint="is it whole?") from error
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise UsageError(f"checkpoint {path} is not a mapping of names to tensors")
    return dict(loaded)


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    where: str,
    *,
    keys: Keys = "exact",
    positions: PositionRule | None = None,
) -> Released | None:
    """Load exactly these weights; every missing, unexpected or misshapen tensor is reported.

    A ViT's position embedding for another square grid is resampled to the model's; what it was before is returned.

    Args:
        keys: of a family: what its files hold beside the tower is dropped by the family's lists, and nothing else.
        positions: how; None: as the family of `keys` does, or as timm does with its own weights.
    """
    wanted, rule, hint = model.state_dict(), positions or "antialias", "check `model` and `keys`"
    if keys == "in_order":
        weights = _rename_in_order(weights, wanted, where)
    elif keys == "timm":
        weights = by_timm(dict(weights), model)
    elif keys == "exact":
        likely = " or ".join(f"keys: {family.key}" for family in FAMILIES.values() if family.fits(weights))
        hint = f"check `model`; its names are those of {likely}" if likely else hint
    else:
        family = FAMILIES[keys]
        tower, _ = family.split(weights, classifier=getattr(model, "num_classes", 0) > 0)
        weights, rule = family.to_timm(tower, wanted), positions or family.positions(tower)
        hint = f"it is read as a file of {family.title}: {hint}"
    released = weights.get("pos_embed")
    weights = resample_positions(model, weights, wanted, rule)
    _require_same_tensors(weights, wanted, where, hint)
    model.load_state_dict(dict(weights))
    return None if released is None else Released(released, rule)


def _require_same_tensors(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str, hint: str) -> None:
    missing = sorted(wanted.keys() - weights.keys())
    unexpected = sorted(weights.keys() - wanted.keys())
    shapes = sorted(k for k in wanted.keys() & weights.keys() if wanted[k].shape != weights[k].shape)
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    parts = [
        f"{len(names)} {what} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        for what, names in found
        if names
    ]
    if parts:
        raise UsageError(f"checkpoint {where} is not for this model: {'; '.join(parts)}", hint=hint)


def _rename_in_order(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    if len(weights) != len(wanted):
        raise UsageError(
            f"checkpoint {where} has {len(weights)} tensors, the model {len(wanted)}; they cannot map in order"
        )
    return dict(zip(wanted.keys(), weights.values(), strict=True))
