"""What a pipeline is made of, without running it: shapes from models without weights, seconds from their operations.

Legend: N rows, T tokens, D width.
"""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.core.encoders import sketch_encoder
from stillhouse.pipeline_config import PipelineConfig
from stillhouse.stage1_extract.config import TeacherConfig
from stillhouse.stage1_extract.levels import LOGITS, Level, levels_of
from stillhouse.stage1_extract.policies import draw
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.students import Student, build_student
from stillhouse.storage.codecs import LOOK_AT_NEIGHBOURS, Codec, fit_codec, pack, stored_type
from stillhouse.storage.codecs.ecsq import BITS
from stillhouse.storage.decode import decode
from stillhouse.storage.specs import LevelSpec
from stillhouse.storage.views import render
from stillhouse.storage.zstd_rows import compress

from .planning import ImageFacts, LevelFacts, Number, Times, member_bytes

IMAGE_BYTES, IMAGE_SIZE = 110_000, (400, 350)
"""An image of ImageNet's, about: its file, and pixels across and down."""
INDEX_FILE, INDEX_ROW, RECORD_BYTES = 4500, 75, 900
BEGIN_S, START_S = 60.0, 10.0
BACKWARD = 3
"""Operations of a step over those of its forward pass."""
RENDERED = 16

Tokens = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sketch:
    """A teacher without weights: its levels, and operations for a view."""

    levels: Mapping[str, LevelSpec]
    flops: int


def sketch_teacher(config: TeacherConfig, view_size: int) -> Sketch:
    """Shapes of the levels of a teacher, and the floating point operations (two a multiplication) of a view."""
    size = config.image_size or view_size
    encoder = sketch_encoder(config, image_size=size, classifier=LOGITS in config.levels)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        found = levels_of(encoder, torch.empty(1, 3, size, size, device="meta"), config.levels)
    return Sketch({name: _spec(level) for name, level in found.items()}, counter.get_total_flops())


def _spec(level: Level) -> LevelSpec:
    return LevelSpec(num_tokens=level.tokens_BTD.shape[1], dim=level.tokens_BTD.shape[2], grid=level.grid)


def sketch_student(config: DistillConfig, target: LevelSpec | None, view_size: int) -> tuple[int, int]:
    """(pixels a side, operations of a forward pass over one image) of a student without weights; heads are left out."""
    with torch.device("meta"):
        student: Student = build_student(config.student, target, view_size=view_size)
        size = student.image_size
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            student.encoder(torch.empty(1, 3, size, size))
    return size, counter.get_total_flops()


def codes_bytes(codec: Codec, num_tokens: int) -> int | None:
    """Bytes of a row of codes; None for a codec whose rows differ."""
    kind = stored_type(codec)
    return None if kind.compressed else num_tokens * kind.width * np.dtype(kind.dtype).itemsize


def asked_for(choice: str, spec: LevelSpec) -> Number:
    """Bytes of a row of codes by the bits a dimension that the choice of a codec asks for."""
    _, _, rate = choice.partition(":")
    bits = float(rate) if rate else BITS
    return Number(spec.num_tokens * spec.dim * bits / 8, "assumed", f"{bits:g} bits a dimension, as asked for")


def level_on_paper(choice: str, spec: LevelSpec) -> LevelFacts:
    """Bytes of a level's rows: as the codec has them, by the rate it is asked for, or as Gaussian tokens come out of it."""
    if choice.partition(":")[0] in LOOK_AT_NEIGHBOURS:
        row = asked_for(choice, spec)
        return LevelFacts(spec.num_tokens, spec.dim, choice, row, axes_bytes(spec.dim))
    random = np.random.Generator(np.random.PCG64(0))
    tokens = random.standard_normal((max(8, 2048 // spec.num_tokens), spec.num_tokens, spec.dim), np.float32)
    codec = fit_codec(choice, tokens, spec.grid)
    exact = codes_bytes(codec, spec.num_tokens)
    if exact is not None:
        row = Number(exact, "exact")
    else:
        packed = np.ascontiguousarray(pack(codec, codec.encode(tokens[:8])).swapaxes(1, 2))
        sizes = [len(compress(one.reshape(-1).view(np.uint8))) for one in packed]
        row = Number(float(np.mean(sizes)), "assumed", "as Gaussian tokens come out")
    arrays = sum(4 * array.size for array in codec.arrays().values())
    return LevelFacts(spec.num_tokens, spec.dim, choice, row, arrays + 8 * spec.dim)


def axes_bytes(dim: int) -> int:
    """Of the widest parameters that a codec has: principal axes, a mean, statistics."""
    return 4 * dim * (dim + 3)


def teacher_on_paper(config: TeacherConfig, sketch: Sketch) -> dict[str, LevelFacts]:
    """The levels of a teacher; `auto` by its budget, or as fp16 where that is an error."""
    if config.budget is None:
        return {name: level_on_paper(config.codec_of(name), spec) for name, spec in sketch.levels.items()}
    most, found = config.budget.bytes_per_token, {}
    for name, spec in sketch.levels.items():
        if most is None:
            row = Number(2 * spec.num_tokens * spec.dim, "assumed", "auto keeps an error: at most fp16")
        else:
            row = Number(most * spec.num_tokens, "assumed", "auto keeps to its budget")
        found[name] = LevelFacts(spec.num_tokens, spec.dim, "auto", row, axes_bytes(spec.dim))
    return found


def images_on_paper() -> ImageFacts:
    """Images like ImageNet's."""
    note = f"JPEGs of {IMAGE_BYTES / 1e3:g} KB as ImageNet's"
    member = member_bytes(IMAGE_BYTES, "n01440764/n01440764_10026.JPEG", "n01440764")
    return ImageFacts(Number(member, "assumed", note), INDEX_FILE, INDEX_ROW)


def rendering_s(config: PipelineConfig) -> float:
    """Seconds of one thread for a view of a made-up image like ImageNet's, decoded and rendered on this machine."""
    random, (width, height) = np.random.Generator(np.random.PCG64(0)), IMAGE_SIZE
    coarse = Image.fromarray(random.integers(0, 256, (height // 3, width // 3, 3), np.uint8))
    made = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(made, "JPEG", quality=90)
    params = [np.array(draw(config.views, f"{view}", width, height, 0), np.int32) for view in range(RENDERED)]
    seconds = []
    for one in params:
        begin = time.perf_counter()
        render(decode(made.getvalue()), one, config.views.size)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def times_on_paper(config: PipelineConfig, sketches: Mapping[str, Sketch], student_flops: int, tflops: float) -> Times:
    """Seconds by operations over the rate of a device, or by rendering where that takes longer.

    Args:
        tflops: what the device really does of them in a second, in 10^12.
    """
    drawn, rate = rendering_s(config), f"at {tflops:g} TFLOP/s"
    forward = {name: sketch.flops / (tflops * 1e12) for name, sketch in sketches.items()}
    feeding = drawn / config.extract.threads
    passes = BACKWARD * student_flops * config.distill.batch * _passes(config.distill) / (tflops * 1e12)
    rendered = config.distill.batch * drawn / config.distill.threads
    return Times(
        start=Number(START_S, "assumed"),
        ingest=Number(drawn / 2, "assumed", "decoded once, in two threads"),
        begin={name: Number(BEGIN_S, "assumed", "loading weights, fitting codecs") for name in sketches},
        fitted=dict.fromkeys(sketches, 0),
        view={name: Number(max(one, feeding), "assumed", _bound(one, feeding, rate)) for name, one in forward.items()},
        forward={name: Number(one, "assumed", rate) for name, one in forward.items()},
        render=Number(drawn, "measured", "one thread, a made-up JPEG"),
        train_begin=Number(START_S, "assumed"),
        cold=Number(max(passes, rendered), "assumed", _bound(passes, rendered, rate)),
        warm=Number(passes, "assumed", rate),
    )


def _passes(config: DistillConfig) -> float:
    """Forward passes of a step: the masked samples go twice."""
    masked = config.objectives.get("patch", 0) > 0
    return 1 + config.mask.probability * masked


def _bound(compute: float, feeding: float, rate: str) -> str:
    return rate if compute >= feeding else "bound by rendering: more `threads` help"
