"""The heads between a student and one teacher; thrown away after training."""

from torch import Tensor, nn

OF_OBJECTIVE = {
    "token": ("token",),
    "feature": ("token", "feature"),
    "patch": ("patch",),
    "theia": ("feature",),
    "radio_patch": ("feature",),
    "radio_summary": ("token",),
    "kl": ("logits",),
    "ce": ("logits",),
}
"""The heads that each objective reads: the feature term sends cls through the token head."""


class Head(nn.Sequential):
    """LayerNorm(D_s), Linear(D_s -> D_t) with bias, both at PyTorch's own initialisation (Proteus).

    D_t is the width of the targets: the teacher's, or that of the basis they are in.
    """

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__(nn.LayerNorm(student_dim), nn.Linear(student_dim, teacher_dim))


class Heads(nn.ModuleDict):
    """Separate heads: `token` for cls, `feature` for seen patches, `patch` for hidden ones, `logits` a linear classifier.

    Args:
        num_classes: of the classifier on cls, None without one.
    """

    def __init__(
        self,
        *,
        student_cls: int,
        student_patch: int,
        teacher_cls: int,
        teacher_patch: int,
        masked: bool,
        num_classes: int | None = None,
    ) -> None:
        heads: dict[str, nn.Module] = {
            "token": Head(student_cls, teacher_cls),
            "feature": Head(student_patch, teacher_patch),
        }
        if masked:
            heads["patch"] = Head(student_patch, teacher_patch)
        if num_classes is not None:
            heads["logits"] = nn.Linear(student_cls, num_classes)
        super().__init__(heads)

    def apply_head(self, name: str, tokens: Tensor) -> Tensor:
        """float32 predictions of one head."""
        predicted: Tensor = self[name](tokens)
        return predicted.float()
