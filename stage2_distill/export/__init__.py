"""Ways out for a finished student: one format a file. This file holds the table and no other code."""

from collections.abc import Mapping
from typing import Final

from .base import Finished, Format, Written
from .dinov2 import to_dinov2, to_proteus
from .onnx import to_onnx
from .timm import export_student, is_whole, timm_config, to_timm
from .transformers import to_transformers

__all__ = ["FORMATS", "Finished", "Format", "Written", "export_student", "is_whole", "timm_config"]

FORMATS: Final[Mapping[str, Format]] = {
    "timm": to_timm,
    "dinov2": to_dinov2,
    "proteus": to_proteus,
    "transformers": to_transformers,
    "onnx": to_onnx,
}
