"""Encoders: any timm model, ViT or CNN, as a function from pixels to one cls token and a grid of patch tokens.

Teacher and student alike are encoders, so that every evaluation runs the same code on both.

Legend: B batch, T patch tokens, D width, H and W pixels, h and w grid rows and columns (T = h * w).
"""

import difflib
import hashlib
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import timm
import torch
from pydantic import Field
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from .config import Config
from .errors import ResourceError, UsageError, missing_package

PACKAGE = "package:"
WRAPPERS = ("state_dict", "model", "student", "teacher")
"""Keys under which checkpoint files are known to keep the weights beside other things."""

Precision = Literal["fp32", "bf16"]


class EncoderConfig(Config):
    """Which model, and where its weights come from."""

    model: str = Field(min_length=1)
    """A timm name as timm spells it (`vit_giant_patch14_dinov2.lvd142m`), or `hf-hub:org/name`."""
    checkpoint: str | None = None
    """A local .safetensors or .pth file, or `package:PACKAGE/path/in/it`. None: timm's own weights for the name."""
    keys: Literal["exact", "in_order"] = "exact"
    """`in_order` maps the file's tensors onto the model's by position; every pair must have one shape."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to `timm.create_model`, e.g. `{dynamic_img_size: true}`."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an encoder gives for a batch: cls_BD, patch_BTD and the grid (h, w) of the patches."""

    cls_BD: Tensor
    patch_BTD: Tensor
    grid: tuple[int, int]


class Encoder(nn.Module):
    """A timm model without its classifier, after its final norm."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model: Any = model
        self.name = name

    @property
    def is_vit(self) -> bool:
        """True when the model has transformer blocks whose cls tokens can be read one by one."""
        return (
            hasattr(self.model, "blocks")
            and hasattr(self.model, "num_prefix_tokens")
            and hasattr(self.model, "_pos_embed")
        )

    def forward(self, x_BCHW: Tensor) -> Tokens:
        """Tokens of normalised pixels. For a model without a cls token, cls is the model's own pooling."""
        feats = self.model.forward_features(x_BCHW)
        return self._tokens(feats, x_BCHW)

    def _tokens(self, feats: Tensor, x_BCHW: Tensor) -> Tokens:
        cls_BD = self.model.forward_head(feats, pre_logits=True)
        if feats.ndim == 3:
            patch_BTD = feats[:, self.model.num_prefix_tokens :]
            return Tokens(cls_BD, patch_BTD, _grid_of(self.model, patch_BTD.shape[1], x_BCHW))
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            feats = feats.permute(0, 3, 1, 2)
        grid = (feats.shape[2], feats.shape[3])
        return Tokens(cls_BD, feats.flatten(2).transpose(1, 2), grid)

    def last_blocks(self, x_BCHW: Tensor, num_blocks: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """cls_BD of the last `num_blocks` blocks (the last one last), each after the final norm, and patch_BTD.

        A model with fewer blocks gives those of all; one without transformer blocks gives its pooled feature alone.
        """
        if not self.is_vit or not getattr(self.model, "has_class_token", False):
            tokens = self(x_BCHW)
            return (tokens.cls_BD,), tokens.patch_BTD
        last = min(num_blocks, len(self.model.blocks))
        found = self.model.forward_intermediates(
            x_BCHW, indices=last, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
        )
        return tuple(prefix[:, 0] for _, prefix in found), found[-1][0]


def _grid_of(model: Any, num_patches: int, x_BCHW: Tensor) -> tuple[int, int]:
    patch = model.patch_embed.patch_size
    height, width = x_BCHW.shape[2] // patch[0], x_BCHW.shape[3] // patch[1]
    if height * width == num_patches:
        return height, width
    side = int(num_patches**0.5)
    return (side, side) if side * side == num_patches else (1, num_patches)


def build_encoder(config: EncoderConfig, *, image_size: int | None = None) -> Encoder:
    """The encoder of a config, in eval mode, without gradients.

    Args:
        image_size: pixels a side; ViTs are built for it, their position embeddings resampled as timm does.

    Raises:
        UsageError: unknown model, or a checkpoint whose tensors are not the model's (all of them named).
        ResourceError: the weights cannot be had: no file, no package, no network.
    """
    args = dict(config.model_args)
    if image_size is not None and _takes_image_size(config.model):
        args.setdefault("img_size", image_size)
    model = create_timm(config.model, pretrained=config.checkpoint is None, **args)
    if config.checkpoint is not None:
        load_weights(
            model,
            read_weights(find_checkpoint(config.checkpoint)),
            config.checkpoint,
            in_order=config.keys == "in_order",
        )
    model.reset_classifier(0)
    return Encoder(model, config.model).eval().requires_grad_(False)


def create_timm(name: str, **args: Any) -> Any:
    """`timm.create_model` with one clear line for an unknown name, and for weights that cannot be had."""
    require_model(name)
    try:
        return timm.create_model(name, **args)
    except (OSError, ConnectionError) as error:
        message = f"the weights of {name!r} cannot be fetched: {_one_line(error)}"
        raise ResourceError(
            message, hint="set `checkpoint` to a local file, or run where the hub can be reached"
        ) from error
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # timm asserts what users may get wrong
        raise UsageError(f"model {name!r} with {args}: {_one_line(error)}", hint="see timm's documentation") from error


def require_model(name: str) -> None:
    """UsageError, naming the nearest models, unless timm knows `name` or it says where else the model is."""
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(name.split(".")[0]):
        known, wanted = timm.list_models(), name.split(".")[0].lower()
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.8)
        near = near or [model for model in known if all(word in model for word in wanted.split("_"))][:3]
        near = near or difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
        remedy = f"did you mean {', '.join(near)}? " if near else ""
        raise UsageError(f"unknown model {name!r}", hint=f"{remedy}`stillhouse models PATTERN` lists the known ones")


def _takes_image_size(name: str) -> bool:
    """ViT-like models are built for an image size; CNNs take any."""
    return timm.models.is_model_in_modules(
        name.split(".")[0], {"vision_transformer", "deit", "eva", "beit", "swin_transformer", "swin_transformer_v2"}
    )


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
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"checkpoint {path} cannot be read: {_one_line(error)}", hint="is it whole?") from error
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise UsageError(f"checkpoint {path} is not a mapping of names to tensors")
    return dict(loaded)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str, *, in_order: bool = False) -> None:
    """Load exactly these weights; every missing, unexpected or misshapen tensor is reported.

    A ViT's position embedding for another square grid is resampled to the model's, as timm does with its own weights.
    """
    wanted = model.state_dict()
    if in_order:
        weights = _rename_in_order(weights, wanted, where)
    weights = _resample_positions(model, weights, wanted)
    missing = sorted(wanted.keys() - weights.keys())
    unexpected = sorted(weights.keys() - wanted.keys())
    shapes = [k for k in wanted.keys() & weights.keys() if wanted[k].shape != weights[k].shape]
    if missing or unexpected or shapes:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(shapes)))
            if names
        ]
        raise UsageError(
            f"checkpoint {where} is not for this model: {'; '.join(parts)}", hint="check `model` and `keys`"
        )
    model.load_state_dict(dict(weights))


def _resample_positions(
    model: Any, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    found, place = weights.get("pos_embed"), wanted.get("pos_embed")
    if found is None or place is None or found.shape == place.shape or not hasattr(model, "num_prefix_tokens"):
        return weights
    prefix = 0 if getattr(model, "no_embed_class", False) else int(model.num_prefix_tokens)
    if found.ndim != 3 or found.shape[2] != place.shape[2] or not _is_square(found.shape[1] - prefix):
        return weights
    grid = list(model.patch_embed.grid_size)
    return {**weights, "pos_embed": resample_abs_pos_embed(found, new_size=grid, num_prefix_tokens=prefix)}


def _is_square(num: int) -> bool:
    return num > 0 and math.isqrt(num) ** 2 == num


def _rename_in_order(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    if len(weights) != len(wanted):
        raise UsageError(
            f"checkpoint {where} has {len(weights)} tensors, the model {len(wanted)}; they cannot map in order"
        )
    return dict(zip(wanted.keys(), weights.values(), strict=True))


def weights_sha256(module: nn.Module) -> str:
    """sha256 over every tensor's name, dtype, shape and bytes, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def default_statistics(encoder: Encoder) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) that the model's own release names."""
    pretrained: Mapping[str, Any] = getattr(encoder.model, "pretrained_cfg", None) or {}
    mean = pretrained.get("mean", (0.485, 0.456, 0.406))
    std = pretrained.get("std", (0.229, 0.224, 0.225))
    return tuple(mean), tuple(std)


def normalise(pixels_BHWC: np.ndarray[Any, np.dtype[np.uint8]], mean: Any, std: Any, device: torch.device) -> Tensor:
    """uint8 pixels [B, H, W, 3] to float32 [B, 3, H, W], (x / 255 - mean) / std, on `device`."""
    x_BCHW = torch.from_numpy(pixels_BHWC).to(device).permute(0, 3, 1, 2).float()
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)
    return torch.addcmul(shift, x_BCHW, scale)


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ResourceError(f"device {name!r}: no CUDA device is visible", hint="use device: cpu or auto")
    return torch.device(name)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
