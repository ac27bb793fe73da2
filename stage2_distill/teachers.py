"""Who teaches: the teachers of a run, what is asked of each, and which of their levels that takes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stillhouse.core.errors import UsageError
from stillhouse.storage.labels import classes_in
from stillhouse.storage.specs import TRAIN, LevelSpec, TeacherSpec
from stillhouse.storage.store import Store

from .config import DistillConfig, TeacherTerms
from .heads import OF_OBJECTIVE
from .objectives import OF_CLASSES
from .targets import own_bases

LOGITS = "logits"
"""The level that holds a teacher's scores of classes, [1, number of classes]."""
_LEVEL_OF_HEAD = {"token": "cls", "feature": "patch", "patch": "patch"}


@dataclass(frozen=True, slots=True)
class Taught:
    """What is learnt from one teacher.

    Args:
        weights: of each of its objectives in the loss, above 0, its own weight included.
        bases: level -> codec in whose own basis its heads predict.
        classes: labels in the order of their numbers, when they are asked for.
        tag: begins the names of its terms, where there are several teachers.
    """

    spec: TeacherSpec
    weight: float
    weights: Mapping[str, float]
    bases: Mapping[str, str]
    classes: tuple[str, ...] = ()
    tag: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def heads(self) -> frozenset[str]:
        """The heads that its objectives read."""
        return frozenset(head for objective in self.weights for head in OF_OBJECTIVE[objective])

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that its objectives compare with, as far as the store's features go."""
        found = {_LEVEL_OF_HEAD[head] for head in self.heads if head in _LEVEL_OF_HEAD}
        return tuple(sorted(found | ({LOGITS} if "kl" in self.weights else set())))

    @property
    def num_classes(self) -> int | None:
        """Of its classifier; None without one."""
        if not OF_CLASSES & self.weights.keys():
            return None
        return self.spec.levels[LOGITS].dim if "kl" in self.weights else len(self.classes)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Of its patch tokens."""
        return self.spec.levels["patch"].grid if "patch" in self.spec.levels else None


def taught_by(config: DistillConfig, store: Store) -> tuple[Taught, ...]:
    """The teachers of a run, by name.

    Raises:
        UsageError: no such teacher, none is named and there are several, or an objective needs what it or the store has not.
    """
    if not config.teachers:
        return (_taught(config, store, _pick_teacher(store, config.teacher), TeacherTerms(), ""),)
    several = len(config.teachers) > 1
    return tuple(
        _taught(config, store, store.teacher(name), config.teachers[name], f"{name}." if several else "")
        for name in sorted(config.teachers)
    )


def lead_of(taught: Sequence[Taught]) -> Taught:
    """The heaviest teacher, among equals the first by name: the student has its grid, and sees pixels as it does."""
    return max(taught, key=lambda one: one.weight)


def classes_for(taught: Sequence[Taught]) -> tuple[str, ...]:
    """The labels that a batch has to bring, in the order of their numbers; none if no objective reads them."""
    return next((one.classes for one in taught if one.classes), ())


def grid_lines(grid: tuple[int, int], taught: Sequence[Taught]) -> Iterator[str]:
    """A line for every teacher whose patches lie on another grid than the student's."""
    for one in taught:
        if one.grid is not None and one.grid != grid and {"feature", "patch"} & one.heads:
            theirs, ours = ("x".join(map(str, each)) for each in (one.grid, grid))
            yield f"its patches lie on a grid of {ours}, those of teacher {one.name} of {theirs}: resampled bilinearly"


def _taught(config: DistillConfig, store: Store, spec: TeacherSpec, terms: TeacherTerms, tag: str) -> Taught:
    objectives = config.objectives if terms.objectives is None else terms.objectives
    weights = {name: terms.weight * weight for name, weight in objectives.items() if weight > 0}
    codecs = {level: store.codec(spec.name, level) for level in spec.levels if level in ("cls", "patch")}
    bases = own_bases(weights, codecs, targets=config.targets, basis=config.basis)
    classes = classes_in(store, store.plan.blocks_of(TRAIN)) if "ce" in weights else ()
    taught = Taught(spec, terms.weight, weights, bases, classes, tag)
    for level in taught.levels:
        _require_level(store, spec, level, next(name for name in weights if level in _levels_of(name)))
    if "ce" in weights:
        _require_classes(store, taught)
    return taught


def _levels_of(objective: str) -> set[str]:
    return {_LEVEL_OF_HEAD.get(head, LOGITS) for head in OF_OBJECTIVE[objective]}


def _require_level(store: Store, spec: TeacherSpec, level: str, objective: str) -> LevelSpec:
    found = spec.levels.get(level)
    if found is None or (level == "patch" and found.grid is None):
        has = f"teacher {spec.name!r} of store {store.name} has only {', '.join(spec.levels)}"
        remedy = f"list {level!r} in `levels` of a teacher of another name and run `stillhouse extract`"
        raise UsageError(f"objective {objective!r} needs level {level!r}; {has}", hint=remedy)
    return found


def _require_classes(store: Store, taught: Taught) -> None:
    """Class numbers are places among the sorted labels; with `kl` they have to be the teacher's as well."""
    if len(taught.classes) < 2:
        message = f"objective 'ce' needs labels; the training images of store {store.name} have {len(taught.classes)}"
        raise UsageError(message, hint="ingest a source with labels, or leave objective 'ce' out")
    if taught.num_classes != len(taught.classes):
        found = f"teacher {taught.name!r} scores {taught.num_classes} classes, the labels of store {store.name} are "
        remedy = "extract a teacher of these classes, or leave one of the two out"
        raise UsageError(f"objectives 'ce' and 'kl' share a classifier; {found}{len(taught.classes)}", hint=remedy)


def _pick_teacher(store: Store, name: str | None) -> TeacherSpec:
    if name is not None:
        return store.teacher(name)
    teachers = store.teachers()
    if not teachers:
        raise UsageError(f"store {store.name} has no features yet", hint="run `stillhouse extract` first")
    if len(teachers) > 1:
        known = ", ".join(teacher.name for teacher in teachers)
        raise UsageError(
            f"store {store.name} has {len(teachers)} teachers ({known})", hint="name one as distill.teacher"
        )
    return teachers[0]
