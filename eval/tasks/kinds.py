"""Every kind of task, by the word in a config."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from .actions import ActionsConfig, ActionsTask
from .base import Task, TaskConfig
from .classification import ClassificationConfig, ClassificationTask
from .depth.config import DepthConfig
from .depth.task import DepthTask
from .fine_grained import FineGrainedConfig, FineGrainedTask
from .retrieval import RetrievalConfig, RetrievalTask
from .robustness import RobustnessConfig, RobustnessTask
from .segmentation.config import SegmentationConfig
from .segmentation.task import SegmentationTask

AnyTask = Annotated[
    ActionsConfig
    | ClassificationConfig
    | DepthConfig
    | FineGrainedConfig
    | RetrievalConfig
    | RobustnessConfig
    | SegmentationConfig,
    Field(discriminator="kind"),
]

TASKS: Mapping[type[TaskConfig], Callable[[Any], Task]] = {
    ActionsConfig: ActionsTask,
    ClassificationConfig: ClassificationTask,
    DepthConfig: DepthTask,
    FineGrainedConfig: FineGrainedTask,
    RetrievalConfig: RetrievalTask,
    RobustnessConfig: RobustnessTask,
    SegmentationConfig: SegmentationTask,
}


def task_of(config: TaskConfig) -> Task:
    """The task of a config."""
    return TASKS[type(config)](config)
