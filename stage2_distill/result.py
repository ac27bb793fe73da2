"""What a finished run leaves: its student, and `result.json`, which says that it is finished."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from stillhouse.core.config import Config, parse_config
from stillhouse.core.errors import CorruptError, UsageError
from stillhouse.core.events import Reporter
from stillhouse.storage.disk import replace_file
from stillhouse.storage.signed_json import canonical_json, read_json

from .export.mask_token import save_mask_token
from .export.timm import export_student, is_whole, timm_config
from .identity import require_same
from .teachers import Taught, lead_of
from .trainer import Trainer

RESULT = "result.json"
STUDENT = "student"


class DistillResult(Config):
    """What a finished run says about itself; kept as `result.json` in its folder."""

    name: str
    config: dict[str, Any]
    config_digest: str
    store_sha256: str
    """Content digest of the store as it was then sealed."""
    trained_on_sha256: str
    """Content digest of what was read from it: images, views and the features of its teachers."""
    teacher: str
    """The only one, or the one that weighs most."""
    num_steps: int
    num_parameters: int
    image_size: int
    weights_sha256: str
    seconds: float
    images_per_second: float
    last_losses: dict[str, float]
    student: str
    """Folder of the exported student, relative to the run's."""
    bases: dict[str, str] = Field(default_factory=dict)
    """level -> codec in whose own basis its heads predicted; levels that are not here: in the teacher's channels.

    Of several teachers: teacher/level.
    """
    mask_token_sha256: str = ""
    """Of the file with the mask token; "": none was kept."""
    teachers: dict[str, float] = Field(default_factory=dict)
    """Where there were several: the weight of each."""


def finished_run(folder: Path) -> DistillResult:
    """The result of a run that is finished; UsageError when it is not."""
    result = _read_result(folder)
    if result is None:
        raise UsageError(f"no finished student at {folder}", hint="run `stillhouse distill` first")
    return result


def _read_result(folder: Path) -> DistillResult | None:
    path, hint = folder / RESULT, "delete it; `stillhouse distill` then goes on from the last checkpoint"
    body = read_json(path, hint)
    try:
        return None if body is None else parse_config(DistillResult, body, where=str(path))
    except UsageError as error:
        raise CorruptError(error.message, hint=hint) from error


def finished_as(folder: Path, identity: dict[str, Any], reporter: Reporter) -> DistillResult | None:
    """The result of the run in `folder`, if it is finished and its exported student is whole; None: it is still to do.

    Raises:
        SpecMismatchError: it is another run.
    """
    result = _read_result(folder)
    if result is None:
        return None
    stored = {"config": result.config, "trained_on_sha256": result.trained_on_sha256, "teacher": result.teacher}
    require_same(folder, stored | {"bases": result.bases, "teachers": result.teachers}, identity)
    if not is_whole(folder / result.student, result.weights_sha256):
        reporter.say(f"distill {result.name}: {folder / result.student} is damaged or gone, and is made again")
        return None
    return result


def finish(
    folder: Path, trainer: Trainer, taught: Sequence[Taught], identity: dict[str, Any], store_sha256: str
) -> DistillResult:
    """Export the student, then write the result, whose presence says that the run is finished.

    Args:
        identity: of the run (identity.py).
        store_sha256: content digest of the store as it is sealed.
    """
    config, spec = trainer.config, lead_of(taught).spec
    identity = identity | {"store_sha256": store_sha256}
    card = {**identity, "teacher_spec": spec.model_dump(mode="json"), "num_steps": trainer.num_steps}
    if len(taught) > 1:
        card["teacher_specs"] = {one.name: one.spec.model_dump(mode="json") for one in taught}
    described = timm_config(trainer.student, spec.preprocessing.mean, spec.preprocessing.std)
    sha256 = export_student(folder / STUDENT, trainer.student_weights(), described, card)
    if config.ema > 0:
        export_student(folder / f"{STUDENT}-ema", trainer.ema_weights(), described, card)
    images = trainer.num_steps * config.batch
    result = DistillResult(
        name=config.name,
        config=identity["config"],
        config_digest=config.digest(),
        store_sha256=identity["store_sha256"],
        trained_on_sha256=identity["trained_on_sha256"],
        teacher=spec.name,
        num_steps=trainer.num_steps,
        num_parameters=sum(p.numel() for p in trainer.student.encoder.parameters()),
        image_size=trainer.student.image_size,
        weights_sha256=sha256,
        seconds=trainer.seconds,
        images_per_second=images / max(trainer.seconds, 1e-9),
        last_losses=trainer.last_losses,
        student=STUDENT,
        bases=identity["bases"],
        mask_token_sha256=save_mask_token(folder, getattr(trainer.student, "mask_token", None)),
        teachers=identity["teachers"],
    )
    replace_file(folder / RESULT, canonical_json(result.model_dump(mode="json")))
    return result
