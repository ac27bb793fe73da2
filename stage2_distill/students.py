"""Students: timm models from scratch, ViTs with a mask token and a patch grid that is the teacher's.

Legend: B batch, M masked samples (the first ones), T patches, D width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stillhouse.core.encoders import Encoder, create_timm
from stillhouse.core.errors import UsageError
from stillhouse.storage.specs import LevelSpec

from .config import StudentConfig


@dataclass(frozen=True, slots=True)
class StudentTokens:
    """cls_BD and patch_BTD of the unmasked pass; hidden_KD of the masked pass at its masked positions, in order."""

    cls_BD: Tensor
    patch_BTD: Tensor
    hidden_KD: Tensor | None


class Student(nn.Module):
    """An encoder being trained, with the mask token that only training needs."""

    def __init__(self, encoder: Encoder, image_size: int, dims: tuple[int, int], config: StudentConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.image_size = image_size
        self.cls_dim, self.patch_dim = dims
        self.config = config
        if self.can_mask:
            self.mask_token = nn.Parameter(torch.zeros(1, dims[1]))  # two axes: it is decayed, as Proteus does

    @property
    def can_mask(self) -> bool:
        """Only plain ViTs have patches that can be hidden one by one between patch and position embedding."""
        return isinstance(self.encoder.model, VisionTransformer)

    def forward(self, x_BCHW: Tensor, mask_MT: Tensor | None = None) -> StudentTokens:
        """Tokens of all samples, and of the first M again with `mask_MT` patches hidden.

        Both passes run as one batch of B + M; computing the masked pass for the masked samples alone gives the loss of
        Proteus' full second pass, as the objective reads nothing else of it.
        """
        if mask_MT is None or len(mask_MT) == 0:
            tokens = self.encoder(x_BCHW)
            return StudentTokens(tokens.cls_BD, tokens.patch_BTD, None)
        model: Any = self.encoder.model
        patches = model.patch_embed(x_BCHW)  # [B, T, D], or [B, h, w, D] with dynamic_img_size
        patches_BTD = patches.flatten(1, -2)
        hidden_MTD = torch.where(mask_MT[..., None], self.mask_token.to(patches_BTD.dtype), patches_BTD[: len(mask_MT)])
        feats = self._after_patches(torch.cat([patches_BTD, hidden_MTD]).reshape(-1, *patches.shape[1:]))
        num = len(x_BCHW)
        cls_BD = model.forward_head(feats[:num], pre_logits=True)
        patch = feats[:, model.num_prefix_tokens :]
        return StudentTokens(cls_BD, patch[:num], patch[num:][mask_MT])

    def _after_patches(self, x: Tensor) -> Tensor:
        """timm's ViT after its patch embedding: position embedding, blocks, final norm."""
        model: Any = self.encoder.model
        x = model.norm_pre(model.patch_drop(model._pos_embed(x)))
        normed: Tensor = model.norm(model.blocks(x))
        return normed


def build_student(config: StudentConfig, target: LevelSpec, *, view_size: int) -> Student:
    """A student from scratch whose patch grid is that of the teacher's `patch` level.

    Raises:
        UsageError: unknown model, or its grid at `image_size` is not the teacher's.
    """
    assert target.grid is not None
    args: dict[str, Any] = {"num_classes": 0, **config.model_args}
    probe = create_timm(config.model, **args)
    vit = Encoder(probe, config.model).is_vit
    if vit:
        if config.layer_scale is not None:
            args.setdefault("init_values", config.layer_scale)
        rows, columns = probe.patch_embed.patch_size
        height, width = target.grid[0] * rows, target.grid[1] * columns
        size = config.image_size or height
        args["img_size"] = (size, size) if config.image_size else (height, width)
        probe = create_timm(config.model, **args)
    else:
        size = config.image_size or view_size
    encoder = Encoder(probe, config.model)
    with torch.inference_mode():
        tokens = encoder.eval()(torch.zeros(1, 3, size, size))
    if tokens.grid != target.grid:
        message = (
            f"student {config.model} at {size} pixels has a {_by(tokens.grid)} grid, the teacher {_by(target.grid)}"
        )
        raise UsageError(message, hint="change distill.student.image_size or its patch_size in model_args")
    return Student(encoder.train(), size, (tokens.cls_BD.shape[1], tokens.patch_BTD.shape[2]), config)


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"
