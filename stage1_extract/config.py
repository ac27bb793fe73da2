"""The sections `ingest` and `teachers` of a pipeline."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from stillhouse.core.config import Config
from stillhouse.core.encoders import EncoderConfig, Precision
from stillhouse.core.errors import UsageError
from stillhouse.storage.codecs import check_choice
from stillhouse.storage.codecs.auto import Budget
from stillhouse.storage.specs import TRAIN

from . import levels
from .sources import SourceConfig
from .subset import SubsetConfig

AUTO = "auto"
Choices = str | dict[str, str]
"""One codec for all levels, or one for each."""


def _known_codecs(choices: Choices) -> Choices:
    if choices == AUTO:
        return choices
    try:
        for choice in [choices] if isinstance(choices, str) else choices.values():
            check_choice(choice)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return choices


class IngestConfig(Config):
    """Which images, how they are split, how they are cut into blocks."""

    source: SourceConfig
    split: dict[str, float] = Field(default_factory=dict)
    """Shares kept out of training by key hash, e.g. `{test: 0.2}`; the rest is `train`."""
    subset: SubsetConfig | None = None
    """Train on a part of `train` alone, e.g. `{of_each_class: 0.2}`; None: on all of it."""
    block_samples: int = Field(default=4096, ge=1, le=65536)
    """Samples of one block: the unit of work, commit and retry."""
    order: Literal["hashed", "source"] = "hashed"
    """`hashed`: every block is a fair draw of the data; `source`: blocks follow the sorted keys."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    grow: bool = False
    """Add to the store what the source lists and the store does not have yet. A word of its own: without it, a store
    that has its samples never looks at the source again."""

    @field_validator("split")
    @classmethod
    def _shares(cls, split: dict[str, float]) -> dict[str, float]:
        if TRAIN in split:
            raise ValueError("'train' is what the other splits leave; give the shares of the others")
        if any(share <= 0 for share in split.values()) or sum(split.values()) >= 1:
            raise ValueError("shares must be above 0 and add up to less than 1")
        return split

    def spec(self) -> dict[str, Any]:
        """What a store says that it was made from: as it was before there were subsets, where there is none."""
        return self.model_dump(mode="json", exclude={"grow", *(["subset"] if self.subset is None else [])})


class TeacherConfig(EncoderConfig):
    """One teacher: a model, how it sees pixels, and how its tokens are stored."""

    name: str
    """Its name in the store, e.g. `dinov2-g`."""
    mean: tuple[float, float, float] | None = None
    """Pixel statistics; None: those that `statistics` names."""
    std: tuple[float, float, float] | None = None
    statistics: Literal["own", "imagenet", "clip", "half"] = "own"
    """`own`: what the model was released with. Proteus (ICLR 2025) shows CLIP images by `imagenet`; `half`: all 0.5."""
    image_size: int | None = Field(default=None, ge=1)
    """Pixels a side that the teacher sees; None: the size of the views."""
    levels: tuple[str, ...] = levels.DEFAULT
    """What of it is stored: `cls`, `patch`, `logits`, `patch-block8`, ...; see levels.py."""
    codec: Annotated[Choices, AfterValidator(_known_codecs)] = "fp16"
    """A codec as `name` or `name:rate`, one for each level as `{cls: int8, patch: klt:1}`, or `auto`: the best one for a
    budget, chosen by measuring."""
    bytes_per_token: float | None = Field(default=None, gt=0)
    """For `codec: auto`: the least error in so many bytes a token on disk."""
    max_nmse: float | None = Field(default=None, gt=0, lt=1)
    """For `codec: auto`: the fewest bytes with so large an error, a share of the variance of the tokens."""
    precision: Precision = "fp32"
    batch: int = Field(default=32, ge=1)
    licence: str = ""
    """Licence of the weights, carried into the store's card."""
    notice: str = Field(default="", max_length=1 << 16)
    """What that licence asks to go with whatever is made from the weights, such as a copyright line."""

    @model_validator(mode="after")
    def _one_statistics(self) -> "TeacherConfig":
        if self.statistics != "own" and (self.mean is not None or self.std is not None):
            raise ValueError(f"statistics {self.statistics} are a mean and a std; leave those out, or `statistics`")
        return self

    @model_validator(mode="after")
    def _one_budget(self) -> "TeacherConfig":
        given = [name for name in ("bytes_per_token", "max_nmse") if getattr(self, name) is not None]
        if (self.codec == AUTO) != (len(given) == 1):
            raise ValueError(f"codec auto takes either bytes_per_token or max_nmse, other codecs neither; got {given}")
        return self

    @field_validator("levels")
    @classmethod
    def _known_levels(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len(set(names)) != len(names):
            raise ValueError(f"levels must be one or more, each once; got {', '.join(names) or 'none'}")
        for name in names:
            levels.block_of(name)
        return names

    @model_validator(mode="after")
    def _a_codec_for_each_level(self) -> "TeacherConfig":
        if isinstance(self.codec, dict) and self.codec.keys() != set(self.levels):
            given = ", ".join(self.codec) or "none"
            raise ValueError(f"a codec for each level is needed: {', '.join(self.levels)}; got {given}")
        return self

    def codec_of(self, level: str) -> str:
        """The codec of one level, when it is named and not `auto`."""
        return self.codec if isinstance(self.codec, str) else self.codec[level]

    @property
    def codec_told(self) -> str:
        """The setting as one line."""
        if self.budget is not None:
            return f"auto: {self.budget}"
        return self.codec if isinstance(self.codec, str) else ", ".join(f"{k} {v}" for k, v in self.codec.items())

    @property
    def budget(self) -> Budget | None:
        """What `auto` chooses by; None for any other codec."""
        return Budget(self.bytes_per_token, self.max_nmse) if self.codec == AUTO else None


LOCAL, SLURM = "local", "slurm"


class SlurmConfig(Config):
    """What a job of one worker asks SLURM for; passed to `dask_jobqueue.SLURMCluster`."""

    cores: int = Field(default=8, ge=1)
    memory: str = "64GB"
    walltime: str = "04:00:00"
    queue: str | None = None
    account: str | None = None
    directives: tuple[str, ...] = ("--gres=gpu:1",)
    """More lines of `#SBATCH`."""
    prologue: tuple[str, ...] = ()
    """Lines that the job runs before its worker, e.g. `module load cuda`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Whatever else `SLURMCluster` takes, e.g. `{interface: ib0}`."""


class ExtractConfig(Config):
    """How the teacher pass runs. Nothing here changes what is stored."""

    device: str = "auto"
    threads: int = Field(default=2, ge=1)
    """Threads of each worker that decode and render images."""
    cluster: str = LOCAL
    """`local`; the address of a Dask scheduler, e.g. `tcp://10.0.0.1:8786`; or `slurm`."""
    workers: int | Literal["auto"] = "auto"
    """Worker processes, each with a teacher of its own. `auto`: one for each GPU, or one; for slurm, one job."""
    slurm: SlurmConfig = SlurmConfig()

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, workers: int | str) -> int | str:
        if isinstance(workers, int) and workers < 1:
            raise ValueError(f"workers must be 1 or more, or auto; got {workers}")
        return workers

    @model_validator(mode="after")
    def _known_cluster(self) -> "ExtractConfig":
        elsewhere = re.fullmatch(r"(tcp|tls|ucx)://\S+:\d+", self.cluster) is not None
        if self.cluster not in (LOCAL, SLURM) and not elsewhere:
            raise ValueError(f"cluster must be local, slurm or an address as tcp://host:port; got {self.cluster!r}")
        if elsewhere and self.workers != "auto":
            raise ValueError(f"the scheduler at {self.cluster} has workers of its own; leave `workers` out")
        return self
