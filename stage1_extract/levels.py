"""Levels: what of a teacher is stored, by name.

`cls` and `patch` are the tokens of its last block behind the final norm. `logits` is what its own classifier says of cls.
`patch-block8` and `cls-block8` are the tokens after its eighth block, counted from 1, as they are; `patch-block8-normed` are the same
behind the final norm, as DINOv2's probes read them. A CNN has stages for blocks, its stem the first, and
no cls in them.

Legend: B batch, T tokens, D width, h and w rows and columns of the grid.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from stillhouse.core.encoders import Encoder
from stillhouse.core.errors import UsageError

CLS, PATCH, LOGITS = "cls", "patch", "logits"
DEFAULT = (CLS, PATCH)
_BLOCK = re.compile(r"(cls|patch)-block([1-9][0-9]*)(-normed)?")


@dataclass(frozen=True, slots=True)
class Level:
    """tokens_BTD, and the grid that they lie on, if they do."""

    tokens_BTD: Tensor
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A level within the model: the kind of its tokens, after which block, and whether behind the final norm."""

    kind: str
    number: int
    normed: bool


def block_of(name: str) -> Block | None:
    """What a name says; None for the levels of the last block.

    Raises:
        ValueError: it is no level's name.
    """
    if name in (CLS, PATCH, LOGITS):
        return None
    match = _BLOCK.fullmatch(name)
    if match is None:
        known = "cls, patch, logits, patch-block8, patch-block8-normed, cls-block8, ..."
        raise ValueError(f"no level is named {name!r}; levels are {known}")
    return Block(match[1], int(match[2]), match[3] is not None)


def levels_of(encoder: Encoder, x_BCHW: Tensor, names: Sequence[str]) -> dict[str, Level]:
    """The named levels of normalised pixels, in that order.

    Raises:
        UsageError: the model has no such block, no classifier, or no cls within it.
    """
    blocks = {name: block for name in names if (block := block_of(name)) is not None}
    feats, found = _features(encoder, x_BCHW, blocks)
    if CLS in names or PATCH in names:
        tokens = encoder.tokens(feats, x_BCHW)
        found |= {CLS: Level(tokens.cls_BD[:, None]), PATCH: Level(tokens.patch_BTD, tokens.grid)}
    if LOGITS in names:
        found[LOGITS] = Level(_logits(encoder, feats)[:, None])
    return {name: found[name] for name in names}


def _logits(encoder: Encoder, feats: Tensor) -> Tensor:
    if getattr(encoder.model, "num_classes", 0) == 0:
        raise UsageError(f"model {encoder.name!r} has no classifier, which level 'logits' reads", hint="leave it out")
    found: Tensor = encoder.model.forward_head(feats)
    return found


def _features(encoder: Encoder, x_BCHW: Tensor, blocks: Mapping[str, Block]) -> tuple[Tensor, dict[str, Level]]:
    """What the model ends in, and the levels within it."""
    if not blocks:
        return encoder.model.forward_features(x_BCHW), {}
    numbers = sorted({block.number for block in blocks.values()})
    depth = len(getattr(encoder.model, "feature_info", None) or ())
    if numbers[-1] > depth:
        raise UsageError(f"model {encoder.name!r} has {depth} blocks, not {numbers[-1]}", hint="name one that it has")
    vit = encoder.is_vit
    prefix = bool(vit and encoder.model.num_prefix_tokens)
    how = {"return_prefix_tokens": prefix, "output_fmt": "NLC"} if vit else {}
    feats, made = encoder.model.forward_intermediates(x_BCHW, indices=[number - 1 for number in numbers], **how)
    by_number = dict(zip(numbers, made, strict=True))
    grid = encoder.tokens(feats, x_BCHW).grid if vit else None
    found = {}
    for name, block in blocks.items():
        if not vit:
            found[name] = _of_stage(encoder, block, by_number[block.number])
            continue
        patch_BTD, prefix_BPD = by_number[block.number] if prefix else (by_number[block.number], None)
        if block.kind == PATCH:
            found[name] = Level(encoder.model.norm(patch_BTD) if block.normed else patch_BTD, grid)
        elif prefix_BPD is None or getattr(encoder.model, "cls_token", None) is None:
            message = f"model {encoder.name!r} has no cls token within it"
            raise UsageError(message, hint=f"name level cls, or patch-block{block.number}")
        else:
            found[name] = Level(encoder.model.norm(prefix_BPD[:, :1]) if block.normed else prefix_BPD[:, :1])
    return feats, found


def _of_stage(encoder: Encoder, block: Block, feats_BDhw: Tensor) -> Level:
    if block.kind == CLS or block.normed:
        message = f"the stages of {encoder.name!r} have neither a cls nor a final norm"
        raise UsageError(message, hint=f"name level patch-block{block.number}")
    return Level(feats_BDhw.flatten(2).transpose(1, 2), (feats_BDhw.shape[2], feats_BDhw.shape[3]))
