"""Students: models from scratch, ViTs with a mask token and, unless a size is given, the patch grid of the teacher.

Legend: B batch, M masked samples (the first ones), T patches, D width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stillhouse.core.encoders import Encoder, create_timm
from stillhouse.core.errors import UsageError
from stillhouse.storage.specs import LevelSpec

from .config import StudentConfig
from .grids import Grid


@dataclass(frozen=True, slots=True)
class StudentTokens:
    """cls_BD and patch_BTD of the unmasked pass; hidden_KD of the masked pass at its masked positions, in order."""

    cls_BD: Tensor
    patch_BTD: Tensor
    hidden_KD: Tensor | None


class Student(nn.Module):
    """An encoder being trained, with the mask token that only training needs."""

    def __init__(
        self, encoder: Encoder, image_size: int, dims: tuple[int, int], config: StudentConfig, grid: Grid
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.image_size = image_size
        self.cls_dim, self.patch_dim = dims
        self.grid = grid
        self.config = config
        if self.can_mask:
            self.mask_token = nn.Parameter(torch.zeros(1, dims[1]))  # two axes: it is decayed, as Proteus does
            if config.mask_token_std > 0:
                nn.init.normal_(self.mask_token, std=config.mask_token_std)

    @property
    def can_mask(self) -> bool:
        """Only plain ViTs have patches that can be hidden one by one between patch and position embedding.

        Not a hybrid: what its convolutions make of a patch, its neighbours have seen too.
        """
        model = self.encoder.model
        return isinstance(model, VisionTransformer) and type(model.patch_embed) is PatchEmbed

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


def build_student(config: StudentConfig, target: LevelSpec | None, *, view_size: int) -> Student:
    """A student from scratch.

    Args:
        target: the teacher's patches; a ViT without an `image_size` is built for the pixels that give it their grid.
        view_size: pixels a side of the views, which any other student takes.

    Raises:
        UsageError: unknown model, or arguments that it does not take.
    """
    args: dict[str, Any] = {"num_classes": 0, **config.model_args}
    probe = create_timm(config.model, **args)
    grid, size = None if target is None else target.grid, config.image_size or view_size
    if Encoder(probe, config.model).is_vit and hasattr(probe, "patch_embed"):
        if config.layer_scale is not None:
            args.setdefault("init_values", config.layer_scale)
        if config.image_size is None and grid is not None:
            rows, columns = probe.patch_embed.feat_ratio(as_scalar=False)
            size = grid[0] * rows
            args["img_size"] = (size, grid[1] * columns)
        else:
            args["img_size"] = (size, size)
        probe = create_timm(config.model, **args)
    encoder = Encoder(probe, config.model)
    try:
        with torch.inference_mode():
            tokens = encoder.eval()(torch.zeros(1, 3, size, size))
    except (
        AssertionError,
        AttributeError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # whatever a model is made of
        message = f"student {config.model} at {size} pixels gives no map of tokens: {' '.join(str(error).split())}"
        raise UsageError(
            message, hint="set distill.student.image_size to one that it takes, or choose another"
        ) from error
    dims = (tokens.cls_BD.shape[1], tokens.patch_BTD.shape[2])
    return Student(encoder.train(), size, dims, config, tokens.grid)
