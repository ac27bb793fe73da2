"""The section `eval` of a pipeline."""

from typing import Literal, Self

from pydantic import Field, model_validator

from stillhouse.core.config import Config
from stillhouse.core.errors import UsageError
from stillhouse.storage import layout

from .knn import KnnConfig
from .leakage import LeakageConfig
from .linear import LinearConfig
from .logistic import LogisticConfig
from .tasks.kinds import AnyTask, task_of

PROBES = ("knn", "linear", "logistic-dinov2", "logistic-proteus")
"""As scores name them; no task may be called so."""


class StoredConfig(Config):
    """How teachers are judged by their stored features, which are of training images alone."""

    view: int = Field(default=0, ge=0)
    """The stored view whose features are read."""
    test: float = Field(default=0.2, gt=0, lt=1)
    """Share of the labelled training images that is judged, by a hash of their keys; the probes are fitted on the others."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    """Of that hash."""


class WatchConfig(Config):
    """How a student is looked at while it is trained."""

    steps: int = Field(default=500, ge=1)
    """Training steps from one look to the next; at least `distill.log_steps`."""
    images: int = Field(default=2000, ge=8)
    """Labelled images of `train` that are drawn for it, or as many as there are; a quarter of them is judged."""


class EvalConfig(Config):
    """Which probes judge a student, on which splits, by which metric."""

    store: str | None = None
    """Another store whose labelled images are judged on, e.g. when the training images have no labels; None: its own."""
    train: str = "train"
    """Split whose labels the probes are fitted on."""
    test: str = "test"
    """Split they are judged on; no student was trained on it."""
    metric: Literal["top1", "mean_per_class"] = "top1"
    """`mean_per_class` weighs every class the same, however many images it has."""
    knn: KnnConfig | None = KnnConfig()
    linear: LinearConfig | None = LinearConfig()
    logistic: LogisticConfig | None = LogisticConfig()
    """Set a probe to null to leave it out."""
    tasks: tuple[AnyTask, ...] = ()
    """Data sets on disk with protocols of their own: `kind`, `path` and what docs/evaluations/ says of the kind."""
    leakage: LeakageConfig | None = LeakageConfig()
    """How test images that are also training images are looked for; null: not at all."""
    stored: StoredConfig | None = None
    """Also judge the teachers by their stored features: no image is decoded, no teacher asked."""
    watch: WatchConfig | None = None
    """Look at the student while it is trained, and warn when its loss falls and its kNN does not rise."""
    bootstrap: int = Field(default=1000, ge=100)
    """Resamplings of the test images for the 95 % intervals."""
    pictures: int = Field(default=6, ge=0, le=64)
    """Rows of views and patch maps in the report."""
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    threads: int = Field(default=2, ge=1)
    batch: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _something_to_judge(self) -> Self:
        if not self.has_probes and not self.tasks:
            raise ValueError("knn, linear and logistic are all null and there are no tasks; leave one in")
        if self.train == self.test:
            raise ValueError(f"train and test are one split, {self.test!r}; judge on images that nothing was fitted on")
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [task_of(task).name for task in self.tasks]
        for name in names:
            try:
                layout.check_name(name, "task")
            except UsageError as error:
                raise ValueError(str(error)) from error
            if name in PROBES or names.count(name) > 1:
                raise ValueError(f"the name {name!r} is given twice; give each task a `name` of its own")
        return self

    @property
    def has_probes(self) -> bool:
        """Whether labelled images of a store are judged on."""
        return not (self.knn is None and self.linear is None and self.logistic is None)
