"""A search that draws each trial by what those before it have scored, in Optuna's database, which outlives a kill.

Draws are keyed by the seed and the number of the trial, so a study that goes on draws what it would have drawn undisturbed.
"""

import contextlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from stillhouse.core import rng
from stillhouse.core.errors import SpecMismatchError, missing_package
from stillhouse.storage.specs import spec_differences

from .config import Range, StudyConfig, SweepConfig
from .space import Trial, text_of

if TYPE_CHECKING:
    import optuna

DATABASE = "study.db"
"""In the folder of a sweep: SQLite, which Optuna's own tools open."""
WAIT_S = 60.0
"""Seconds for which one process waits while another writes to the database."""
Came = Literal["done", "pruned", "diverged"]


class Study:
    """The trials of a search. A context manager: it holds the database open.

    Args:
        about: all that makes the scores of two sittings comparable, as plain JSON values; None: as the database has it.

    Raises:
        ResourceError: Optuna is not installed.
        SpecMismatchError: the database in `folder` is of another search.
    """

    def __init__(self, folder: Path, asked: SweepConfig, about: Mapping[str, Any] | None = None) -> None:
        if find_spec("optuna") is None:
            raise missing_package("optuna")
        import optuna

        assert asked.study is not None
        self._space, self._config = asked.space, asked.study
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it has lines of its own about every trial
        path, options = folder / DATABASE, {"connect_args": {"timeout": WAIT_S}}
        with contextlib.ExitStack() as undo:
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=options)
            undo.callback(self.__exit__)
            self._study = optuna.create_study(
                study_name=asked.name,
                storage=self._storage,
                load_if_exists=True,
                direction="maximize",
                pruner=_pruner(self._config),
            )
            if about is not None:
                self._require_same(path, about)
            undo.pop_all()

    def _require_same(self, path: Path, about: Mapping[str, Any]) -> None:
        kept = self._study.user_attrs.get("about")
        if kept is None:
            self._study.set_user_attr("about", dict(about))
        elif differences := list(spec_differences(kept, dict(about))):
            message = f"study {path} was begun with another setting: {'; '.join(differences)}"
            raise SpecMismatchError(message, hint="name the new sweep otherwise (sweep.name), or remove the folder")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()

    @property
    def num_trials(self) -> int:
        """How many were drawn so far."""
        return len(self._study.get_trials(deepcopy=False))

    def ended(self) -> Iterator[tuple[Trial, Came, str]]:
        """The trials that earlier sittings have told of, what came of them, and why."""
        import optuna

        states: dict[Any, Came] = {
            optuna.trial.TrialState.COMPLETE: "done",
            optuna.trial.TrialState.PRUNED: "pruned",
            optuna.trial.TrialState.FAIL: "diverged",
        }
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state in states:
                yield self._point(frozen), states[frozen.state], frozen.user_attrs.get("note", "")

    def begun(self) -> Iterator[Trial]:
        """The trials that an earlier sitting drew and did not come to tell of: to be gone on with."""
        for number, frozen in enumerate(self._study.get_trials(deepcopy=False)):
            if not frozen.state.is_finished():
                self._study.sampler = self._sampler(number)  # it may have been killed before all was drawn
                yield self._drawn(self._trial(number))

    def draw(self) -> Trial:
        """The next trial."""
        self._study.sampler = self._sampler(self.num_trials)
        return self._drawn(self._study.ask())

    def enough(self, number: int, look: int, score: float) -> bool:
        """Whether a trial is to end, by its look number `look`, from 1 on, in the light of the others."""
        if look < 1:  # before its first step a student says nothing about its settings
            return False
        trial = self._trial(number)
        if look not in self._study.get_trials(deepcopy=False)[number].intermediate_values:
            trial.report(score, look)
        return bool(trial.should_prune())

    def tell(self, number: int, came: Came, score: float | None, note: str) -> None:
        """What came of a trial."""
        import optuna

        state = {
            "done": optuna.trial.TrialState.COMPLETE,
            "pruned": optuna.trial.TrialState.PRUNED,
            "diverged": optuna.trial.TrialState.FAIL,
        }[came]
        if note:
            self._trial(number).set_user_attr("note", note)
        self._study.tell(number, score if came == "done" else None, state)

    def _trial(self, number: int) -> "optuna.trial.Trial":
        import optuna

        frozen = self._study.get_trials(deepcopy=False)[number]
        return optuna.trial.Trial(self._study, frozen._trial_id)  # Optuna has no other way to go on with a trial

    def _drawn(self, trial: "optuna.trial.Trial") -> Trial:
        return Trial(trial.number, {key: self._value(trial, key) for key in self._space})

    def _value(self, trial: "optuna.trial.Trial", key: str) -> Any:
        axis = self._space[key]
        if not isinstance(axis, Range):
            return _named(axis)[trial.suggest_categorical(key, list(_named(axis)))]
        if isinstance(axis.low, int) and isinstance(axis.high, int):
            return trial.suggest_int(key, axis.low, axis.high, log=axis.log)
        return trial.suggest_float(key, axis.low, axis.high, log=axis.log)

    def _point(self, frozen: "optuna.trial.FrozenTrial") -> Trial:
        values = {
            key: frozen.params[key] if isinstance(axis, Range) else _named(axis)[frozen.params[key]]
            for key, axis in self._space.items()
        }
        return Trial(frozen.number, values)

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        import optuna

        seed = rng.block(rng.seed_bytes(self._config.seed), "", number, "sweep")[0] % (1 << 32)
        if self._config.sampler == "random":
            return optuna.samplers.RandomSampler(seed)
        return optuna.samplers.TPESampler(seed=seed)


def _named(axis: tuple[Any, ...]) -> dict[str, Any]:
    """The values of a list by their text, which is what the database keeps."""
    return {text_of(value): value for value in axis}


def _pruner(config: StudyConfig) -> "optuna.pruners.BasePruner":
    import optuna

    match config.pruner:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner()
        case "hyperband":
            return optuna.pruners.HyperbandPruner()
