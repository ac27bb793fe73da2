"""A pipeline.yaml: what the sections are, where the output goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from stillhouse.core.config import Config, load_config, sections_of
from stillhouse.core.errors import UsageError
from stillhouse.core.events import Reporter
from stillhouse.eval.config import EvalConfig
from stillhouse.stage1_extract.config import ExtractConfig, IngestConfig, TeacherConfig
from stillhouse.stage1_extract.policies import ViewPolicyConfig
from stillhouse.stage2_distill.config import DistillConfig
from stillhouse.stage2_distill.sweep.config import SweepConfig
from stillhouse.storage import layout
from stillhouse.storage.disk import replace_file
from stillhouse.storage.places.base import is_url, redacted
from stillhouse.storage.remote.config import RemoteConfig
from stillhouse.storage.remote.opening import open_store
from stillhouse.storage.store import Store


class StudentsConfig(Config):
    """What is done with a store that is there: the part of a pipeline.yaml that a team needs that got one."""

    name: str = Field(min_length=1)
    """Names the run in reports."""
    out: str = Field(min_length=1)
    """Folder for students, scores and the report."""
    store: str | None = None
    """Folder of the store; None: `<out>/store`. Training and judging also read one at a URL, such as s3://bucket/store."""
    remote: RemoteConfig = RemoteConfig()
    teachers: tuple[TeacherConfig, ...] = ()
    """Only judging asks them, where it shows a student images that the store has no features of."""
    distill: DistillConfig = DistillConfig()
    eval: EvalConfig = EvalConfig()
    sweep: SweepConfig | None = None

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) != len(names):
            raise ValueError(f"two teachers have one name: {', '.join(names)}")
        try:
            for what, name in (*(("teacher", name) for name in names), ("student", self.distill.name)):
                layout.check_name(name, what)
        except UsageError as error:
            raise ValueError(str(error)) from error
        for key, asked in (("teacher", [self.distill.teacher]), ("teachers", self.distill.teachers)):
            unknown = [one for one in asked if names and one not in (None, *names)]
            if unknown:
                raise ValueError(f"distill.{key} {unknown[0]!r} is not in `teachers`: {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _looks_have_a_loss(self) -> Self:
        if self.eval.watch is not None and self.eval.watch.steps < self.distill.log_steps:
            given = f"{self.eval.watch.steps}, and the loss is logged every distill.log_steps {self.distill.log_steps}"
            raise ValueError(f"eval.watch.steps is {given} steps; look no more often")
        return self

    @model_validator(mode="after")
    def _sweep_is_judged(self) -> Self:
        if self.sweep is not None:
            if getattr(self.eval, self.sweep.probe) is None:
                raise ValueError(f"sweep.probe is {self.sweep.probe}, and eval.{self.sweep.probe} is null; leave it in")
            if self.sweep.split == self.eval.train:
                raise ValueError(f"sweep.split is {self.sweep.split!r}, which the probes are fitted on; name another")
            if self.sweep.study is not None and self.sweep.study.pruner != "none" and self.eval.watch is None:
                raise ValueError(
                    "sweep.study.pruner ends trials by the looks of `eval.watch`; set it, e.g. {steps: 500}"
                )
        return self

    @property
    def store_place(self) -> str:
        """The folder of the store, or its URL."""
        return self.store or str(Path(self.out) / "store")

    @property
    def store_path(self) -> Path:
        """The folder of a store that is going to be written; UsageError for one at a URL."""
        if is_url(self.store_place):
            message = f"{redacted(self.store_place)} is only read"
            raise UsageError(message, hint="`stillhouse pull` it to a folder first, or use distill, sweep and eval")
        return Path(self.store_place)

    def teacher_of(self, name: str) -> TeacherConfig:
        """The config of one teacher by name."""
        for teacher in self.teachers:
            if teacher.name == name:
                return teacher
        known = ", ".join(teacher.name for teacher in self.teachers) or "none are there"
        message = f"the student was trained on {name!r}, which is not in `teachers`: {known}"
        raise UsageError(message, hint="add it: a student is judged beside its teacher, which runs for that")


class PipelineConfig(StudentsConfig):
    """A whole pipeline.yaml: one section a verb."""

    ingest: IngestConfig
    views: ViewPolicyConfig
    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    extract: ExtractConfig = ExtractConfig()


MAKING = ("ingest", "views", "extract")
"""Sections that only who makes a store needs."""


def config_from(tree: Mapping[str, Any]) -> StudentsConfig:
    """The config of a tree that was valid once, with the sections that it has."""
    return (PipelineConfig if any(name in tree for name in MAKING) else StudentsConfig).model_validate(tree)


def load_students_config(path: Path, overrides: Sequence[str] = ()) -> StudentsConfig:
    """A pipeline.yaml for the verbs that need no more than a store: it may be a whole one.

    Raises:
        UsageError: as `load_config` does.
    """
    whole = any(name in MAKING for name in sections_of(path, overrides))
    return load_config(PipelineConfig if whole else StudentsConfig, path, overrides)


def open_stored(config: StudentsConfig, reporter: Reporter) -> Store:
    """The store of a pipeline, wherever it lies."""
    return open_store(config.store_place, config.remote.reach(), reporter, expect=config.remote.expect)


def save_resolved(config: StudentsConfig) -> None:
    """Keep the config with every default filled in beside the output."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    path = Path(config.out) / "pipeline.resolved.yaml"
    try:
        if not (path.is_file() and path.read_bytes() == text.encode()):
            replace_file(path, text.encode())
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        message = f"out: {config.out!r} cannot be a folder: {error.strerror}"
        raise UsageError(message, hint="name a folder that is there or can be made") from error


def student_folder(config: StudentsConfig, seed: int) -> Path:
    """Where the student of a seed is trained and exported."""
    return Path(config.out) / "students" / f"{config.distill.name}-seed{seed}"
