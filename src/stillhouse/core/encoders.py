"""Encoders: any timm model, ViT or CNN, as a function from pixels to one cls token and a grid of patch tokens.

Teacher and student alike are encoders, so that every evaluation runs the same code on both.

Legend: B batch, T patch tokens, D width, H and W pixels, h and w grid rows and columns (T = h * w).
"""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import timm
import torch
from pydantic import Field
from torch import Tensor, nn

from .allocator import keep_freed_memory
from .checkpoints import find_checkpoint, load_weights, read_weights
from .config import Config
from .errors import ResourceError, UsageError, one_line
from .factories import find_factory, from_factory, is_factory
from .families import FAMILIES, Keys
from .families.base import CLIP, HALF, IMAGENET, Family, Statistics
from .positions import PositionRule, Released

Precision = Literal["fp32", "bf16"]


class EncoderConfig(Config):
    """Which model, and where its weights come from."""

    model: str = Field(min_length=1)
    """A timm name as timm spells it (`vit_giant_patch14_dinov2.lvd142m`), `hf-hub:org/name`, or `module:factory`."""
    checkpoint: str | None = None
    """A local .safetensors or .pth file, or `package:PACKAGE/path/in/it`. None: timm's own weights for the name."""
    keys: Keys = "exact"
    """How the file's names map onto the model's: `exact`, `in_order` (by position; every pair must have one shape), a family
    whose own names the file has (`dinov2`, `dinov3`, `clip`, ...), or `timm`: by timm's own converter. docs/teachers.md"""
    positions: PositionRule | None = None
    """How a position embedding comes onto another grid; None: as the family of `keys` does, or as timm does."""
    model_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to `timm.create_model`, e.g. `{dynamic_img_size: true}`."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an encoder gives for a batch: cls_BD, patch_BTD and the grid (h, w) of the patches."""

    cls_BD: Tensor
    patch_BTD: Tensor
    grid: tuple[int, int]


class Encoder(nn.Module):
    """A timm model without its classifier, after its final norm.

    `family` is that of the official file that it was read from; `remarks` are what a person should be told of it;
    `released` are the position embeddings of that file, None for a model that was not read from one.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        family: Family | None = None,
        remarks: Sequence[str] = (),
        released: Released | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.name = name
        self.family = family
        self.remarks = tuple(remarks)
        self.released = released

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
        return self.tokens(self.model.forward_features(x_BCHW), x_BCHW)

    def tokens(self, feats: Tensor, x_BCHW: Tensor) -> Tokens:
        """What `forward_features` gives, taken apart."""
        cls_BD = self.model.forward_head(feats, pre_logits=True)
        if feats.ndim == 3:
            patch_BTD = feats[:, self.model.num_prefix_tokens :]
            return Tokens(cls_BD, patch_BTD, _grid_of(self.model, patch_BTD.shape[1], x_BCHW))
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            feats = feats.permute(0, 3, 1, 2)
        grid = (feats.shape[2], feats.shape[3])
        return Tokens(cls_BD, feats.flatten(2).transpose(1, 2), grid)

    @property
    def _has_cls(self) -> bool:
        """True when the blocks' cls tokens are what the model's own cls is made from."""
        named: bool = getattr(
            self.model, "has_class_token", False
        )  # timm's VisionTransformer; its Eva has no such word
        return named or (
            getattr(self.model, "cls_token", None) is not None and getattr(self.model, "global_pool", "") == "token"
        )

    def last_blocks(self, x_BCHW: Tensor, num_blocks: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """cls_BD of the last `num_blocks` blocks (the last one last), each after the final norm, and patch_BTD.

        A model with fewer blocks gives those of all; one without transformer blocks gives its pooled feature alone.
        """
        if not self.is_vit or not self._has_cls:
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


def build_encoder(config: EncoderConfig, *, image_size: int | None = None, classifier: bool = False) -> Encoder:
    """The encoder of a config, in eval mode, without gradients.

    Args:
        image_size: pixels a side; ViTs are built for it, their position embeddings resampled.
        classifier: keep the model's own classifier, if it has one.

    Raises:
        UsageError: unknown model, or a checkpoint whose tensors are not the model's (all of them named).
        ResourceError: the weights cannot be had: no file, no package, no network.
    """
    if config.keys in FAMILIES:
        encoder = _of_family(config, FAMILIES[config.keys], image_size, classifier)
    else:
        encoder = _of_timm(config, image_size)
    if not classifier and hasattr(encoder.model, "reset_classifier"):  # a factory's model may have none
        encoder.model.reset_classifier(0)
    return encoder.eval().requires_grad_(False)


def sketch_encoder(config: EncoderConfig, *, image_size: int | None = None, classifier: bool = False) -> Encoder:
    """The encoder of a config without weights and without memory for them (torch's meta device): it gives shapes alone.

    Raises:
        UsageError: unknown model.
    """
    family = FAMILIES.get(config.keys)
    args = {**(family.model_args if family else {}), **_arguments(config, image_size)}
    if not classifier:
        args["num_classes"] = 0
    with torch.device("meta"):
        model = create_timm(config.model, pretrained=False, **args)
    return Encoder(model, config.model, family).eval().requires_grad_(False)


def _of_timm(config: EncoderConfig, image_size: int | None) -> Encoder:
    """Released weights, or a file's that has the model's own names."""
    args, positions = _arguments(config, image_size), None
    if config.keys == "timm":
        args["num_classes"] = 0  # its file has another head, or none
    if config.checkpoint is not None:
        model = create_timm(config.model, pretrained=False, **args)
        weights = read_weights(find_checkpoint(config.checkpoint))
        _require_positions(model, config)
        positions = load_weights(model, weights, config.checkpoint, keys=config.keys, positions=config.positions)
    elif config.positions is None:
        require_own_activation(config.model, config.model_args)
        model = create_timm(config.model, pretrained=True, **args)
    else:  # timm resamples by its own rule as it loads, so the weights are had at the size that they were released for
        require_own_activation(config.model, config.model_args)
        released = create_timm(config.model, pretrained=True, **config.model_args)
        model = create_timm(config.model, pretrained=False, **args)
        _require_positions(model, config)
        positions = load_weights(model, released.state_dict(), config.model, positions=config.positions)
    return Encoder(model, config.model, remarks=_pooling(model), released=positions)


def _of_family(config: EncoderConfig, family: Family, image_size: int | None, classifier: bool) -> Encoder:
    """A timm model with the weights of a file as its authors released it."""
    if config.checkpoint is None:
        raise UsageError(f"keys: {family.key} says how a file names its tensors", hint="name one as `checkpoint`")
    weights = read_weights(find_checkpoint(config.checkpoint))
    tower, dropped = family.split(weights, classifier=classifier)
    args = {**family.model_args, **_arguments(config, image_size), "num_classes": family.num_classes(tower)}
    model = create_timm(config.model, pretrained=False, **args)
    family.check(model)
    family.prepare(model)
    _require_positions(model, config)
    positions = load_weights(model, weights, config.checkpoint, keys=config.keys, positions=config.positions)
    told = ", ".join(f"{what} ({num})" for what, num in dropped.items())
    remarks = [f"of {config.checkpoint} the encoder needs no {told}"] if told else []
    return Encoder(model, config.model, family, [*remarks, *_pooling(model)], positions)


def _arguments(config: EncoderConfig, image_size: int | None) -> dict[str, Any]:
    args = dict(config.model_args)
    if image_size is not None and _takes_image_size(config.model):
        args.setdefault("img_size", image_size)
    return args


def _require_positions(model: Any, config: EncoderConfig) -> None:
    if config.positions is not None and getattr(model, "pos_embed", None) is None:
        message = f"positions: {config.positions}: model {config.model} has no position embeddings"
        raise UsageError(message, hint="leave `positions` out")


def _pooling(model: Any) -> list[str]:
    """A model that has a cls token and does not use it is told of: its `cls` is what people may not expect."""
    pool = getattr(model, "global_pool", "token")
    if getattr(model, "cls_token", None) is None or pool in ("token", ""):
        return []
    return [f"its cls is the model's own pooling ({pool}); model_args: {{global_pool: token}} gives its cls token"]


def create_timm(name: str, /, **args: Any) -> Any:
    """`timm.create_model` with one clear line for an unknown name, and for weights that cannot be had; or a factory's."""
    require_model(name)
    try:
        return from_factory(name, args) if is_factory(name) else timm.create_model(name, **args)
    except (OSError, ConnectionError) as error:
        message = f"the weights of {name!r} cannot be fetched: {one_line(error)}"
        raise ResourceError(
            message, hint="set `checkpoint` to a local file, or run where the hub can be reached"
        ) from error
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # timm asserts what users may get wrong
        raise UsageError(f"model {name!r} with {args}: {one_line(error)}", hint="see timm's documentation") from error


def require_model(name: str) -> None:
    """UsageError, naming the nearest models, unless timm knows `name` or it says where else the model is."""
    if is_factory(name):
        find_factory(name)
        return
    if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(name.split(".")[0]):
        known, wanted = timm.list_models(), name.split(".")[0].lower()
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.8)
        near = near or [model for model in known if all(word in model for word in wanted.split("_"))][:3]
        near = near or difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
        remedy = f"did you mean {', '.join(near)}? " if near else ""
        raise UsageError(f"unknown model {name!r}", hint=f"{remedy}`stillhouse models PATTERN` lists the known ones")


def require_own_activation(name: str, args: Mapping[str, Any]) -> None:
    """UsageError where timm gives weights to a model without the activation that they were trained with (CLIP's)."""
    released = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name.split(".")[0]) else None
    quick = any("QuickGELU" in note for note in getattr(released, "notes", None) or ())
    if quick and "quickgelu" not in name and "act_layer" not in args:
        other = name.replace("_clip_", "_clip_quickgelu_")
        hint = f"use {other}" if timm.is_model(other.split(".")[0]) else "set model_args: {act_layer: quick_gelu}"
        raise UsageError(f"the weights of {name!r} were trained with QuickGELU, the model has GELU", hint=hint)


def _takes_image_size(name: str) -> bool:
    """ViT-like models are built for an image size; CNNs take any."""
    return timm.models.is_model_in_modules(
        name.split(".")[0], {"vision_transformer", "deit", "eva", "beit", "swin_transformer", "swin_transformer_v2"}
    )


def weights_sha256(module: nn.Module) -> str:
    """sha256 over every tensor's name, dtype, shape and bytes, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


STATISTICS: Mapping[str, Statistics] = {"imagenet": IMAGENET, "clip": CLIP, "half": HALF}
"""Means and standard deviations of pixels from 0 to 1, by name."""


def default_statistics(encoder: Encoder) -> Statistics:
    """(mean, std) that the model's own release names; ImageNet's for one that names none."""
    if encoder.family is not None and encoder.family.statistics is not None:
        return encoder.family.statistics
    pretrained: Mapping[str, Any] = getattr(encoder.model, "pretrained_cfg", None) or {}
    mean, std = IMAGENET
    return tuple(pretrained.get("mean", mean)), tuple(pretrained.get("std", std))


def on_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """An array as a tensor there. The copy to a GPU goes beside its work, from memory that the system may not move."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def normalise(pixels_BHWC: np.ndarray[Any, np.dtype[np.uint8]], mean: Any, std: Any, device: torch.device) -> Tensor:
    """uint8 pixels [B, H, W, 3] to float32 [B, 3, H, W], (x / 255 - mean) / std, on `device`."""
    x_BCHW = on_device(pixels_BHWC, device).permute(0, 3, 1, 2).float()
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, 3, 1, 1)
    return torch.addcmul(shift, x_BCHW, scale)


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU. A process that works on its CPU keeps the memory it frees."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ResourceError(f"device {name!r}: no CUDA device is visible", hint="use device: cpu or auto")
    device = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    return device
