"""The loss against one teacher: its heads, its targets, its terms.

Legend: B batch, M masked samples (the first ones), T patches, C codes a token, D width of the targets.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from stillhouse.storage.store import Store

from .config import DistillConfig
from .grids import resampled, resampling
from .heads import Heads
from .objectives import OBJECTIVES, Predictions, Targets
from .phi_s import Turned, moments, phi_s
from .students import Student, StudentTokens
from .targets import LevelTargets, build_targets, turned_targets
from .teachers import LOGITS, Taught


class TeacherLoss:
    """What a student's tokens and a batch of codes are to one teacher: `predict` in the student's precision, then `compare`.

    Raises:
        UsageError: the targets cannot be made of this teacher's width.
    """

    def __init__(
        self, taught: Taught, store: Store, config: DistillConfig, student: Student, device: torch.device
    ) -> None:
        self.taught = taught
        self._device, self._temperature = device, config.temperature
        self._codecs = {level: store.codec(taught.name, level) for level in taught.spec.levels}
        self.turned: dict[str, Turned] = {}
        self.targets: dict[str, LevelTargets] = {}
        for level in ("cls", "patch", *(name for name in taught.levels if name == LOGITS)):
            if level in taught.spec.levels:
                self._build_targets(level, store, config)
        cls, patch = (self.targets[level].width if level in self.targets else 1 for level in ("cls", "patch"))
        self.heads = Heads(
            student_cls=student.cls_dim,
            student_patch=student.patch_dim,
            teacher_cls=cls,
            teacher_patch=patch,
            masked="patch" in taught.weights,
            num_classes=taught.num_classes,
        ).to(device)
        self._to_teacher = self._to_student = None
        if taught.grid is not None and taught.grid != student.grid:
            self._to_teacher = resampling(student.grid, taught.grid).to(device)
            self._to_student = resampling(taught.grid, student.grid).to(device)

    def _build_targets(self, level: str, store: Store, config: DistillConfig) -> None:
        taught, codec, kind = self.taught, self._codecs[level], config.targets if level != LOGITS else "raw"
        if kind == "phi_s" and level in taught.levels:
            self.turn(level, phi_s(*moments(store, taught.name, level)))
            return
        scaled = kind in ("centred", "standardised")
        self.targets[level] = build_targets(
            codec,
            self._device,
            store.statistics(taught.name, level) if scaled else None,
            own_basis=level in taught.bases,
            per_channel=kind == "standardised",
        )

    def turn(self, level: str, turned: Turned) -> None:
        """Take these as the targets of a level."""
        self.turned[level] = turned
        self.targets[level] = turned_targets(self._codecs[level], self._device, turned)

    def predict(self, tokens: StudentTokens) -> Predictions:
        """What the heads in use make of the student's tokens, patches on the teacher's grid."""
        heads, used = self.heads, self.taught.heads
        patch = heads.apply_head("feature", tokens.patch_BTD) if "feature" in used else None
        return Predictions(
            heads.apply_head("token", tokens.cls_BD) if "token" in used else None,
            patch,
            heads.apply_head("patch", tokens.hidden_KD) if "patch" in used and tokens.hidden_KD is not None else None,
            heads.apply_head("logits", tokens.cls_BD) if "logits" in used else None,
        )

    def compare(
        self,
        predicted: Predictions,
        codes: Mapping[str, Tensor],
        mask_MT: Tensor | None,
        label_B: Tensor | None,
    ) -> dict[str, Tensor]:
        """Each term's own value, by its name in logs; codes are on the device."""
        found = {level: self.targets[level](codes[level]) for level in self.taught.levels}
        patch_BTD, masked = found.get("patch"), None
        if predicted.masked_MD is not None:
            assert mask_MT is not None and patch_BTD is not None
            masked = resampled(patch_BTD[: len(mask_MT)], self._to_student)[mask_MT]
        if predicted.patch_BTD is not None and self._to_teacher is not None:
            on_grid_BTD = resampled(predicted.patch_BTD, self._to_teacher)
            predicted = Predictions(predicted.cls_BD, on_grid_BTD, predicted.masked_MD, predicted.logits_BC)
        target = Targets(
            found["cls"][:, 0] if "cls" in found else None,
            patch_BTD,
            masked,
            found[LOGITS][:, 0] if LOGITS in found else None,
            label_B,
            dropped_cls=self.targets["cls"].dropped if "cls" in found else 0,
            dropped_patch=self.targets["patch"].dropped if "patch" in found else 0,
            temperature=self._temperature,
        )
        return {self.taught.tag + name: OBJECTIVES[name](predicted, target) for name in self.taught.weights}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term, by its name in logs."""
        return {self.taught.tag + name: weight for name, weight in self.taught.weights.items()}
