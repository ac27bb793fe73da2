"""The processes that train one student together, as `torchrun` starts them: each takes its part of every batch.

Gradients are averaged by DistributedDataParallel, over nccl between GPUs and gloo between CPUs. Beside it ranks agree before
every step that all of them go on: whatever ends or stops one ends all at the same step, with one message. The first rank
speaks and writes; the others compute.
"""

import contextlib
import datetime
import signal
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stillhouse.core.errors import DivergedError, ResourceError, StillhouseError, UsageError, one_line
from stillhouse.core.events import Reporter
from stillhouse.core.launch import is_launched

from .parts import Part

PATIENCE = datetime.timedelta(hours=6)
"""How long ranks wait for one another: the first one may look, export or write meanwhile. A dead rank is seen at once."""

T = TypeVar("T")


class Ranks:
    """Which rank this process is, of how many; alone it is the first of one.

    Args:
        local: its number among those of this machine, and of its GPU.
    """

    def __init__(self, number: int = 0, num: int = 1, local: int = 0) -> None:
        self.number, self.num, self._local = number, num, local
        self.group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if num > 1 else None
        self.stopped_by = ""
        self.agreed, self.lost = False, False
        """Whether every rank knows what ended this one, or another one ended it."""

    @property
    def is_first(self) -> bool:
        return self.number == 0

    @property
    def part(self) -> Part:
        """Of every batch."""
        return Part(self.number, self.num)

    def device(self, device: torch.device) -> torch.device:
        """This rank's own one."""
        return torch.device("cuda", self._local) if self.num > 1 and device.type == "cuda" else device

    def synced(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass leaves every rank the mean of all gradients; all start from the first one's."""
        if self.num == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=True)  # an objective may not read every head

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of scalars of all ranks."""
        if self.num == 1:
            return dict(values)
        with self.others_needed():
            stacked = torch.stack(list(values.values()))
            dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.num).unbind(), strict=True))

    @contextlib.contextmanager
    def others_needed(self) -> Iterator[None]:
        """Says of an error in here that it is because another rank ended."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self.num == 1:
                raise
            self.lost = True
            message = f"rank {self.number} of {self.num} lost the others ({one_line(error)})"
            raise ResourceError(message, hint="what the rank that ended first says is the reason") from error

    def agree(self, error: BaseException | None = None) -> None:
        """Wait until all ranks are here. What ended one of them, or asked it to stop, is raised in all."""
        if self.num == 1:
            return
        if error is None and self.stopped_by:
            error = KeyboardInterrupt(self.stopped_by)
        if error is not None and not isinstance(error, StillhouseError | KeyboardInterrupt):
            error = ResourceError(f"rank {self.number}: {type(error).__name__}: {one_line(error)}")
        with self.others_needed():
            any_error = torch.tensor([error is not None], dtype=torch.uint8)
            dist.all_reduce(any_error, dist.ReduceOp.MAX, group=self.group)
            if not any_error:
                return
            told: list[Any] = [None] * self.num
            dist.all_gather_object(told, error, group=self.group)
        self.agreed = True
        errors = [one for one in told if one is not None]
        raise next((one for one in errors if isinstance(one, StillhouseError)), errors[0])

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """What goes wrong in here ends every rank, when it next agrees with this one."""
        try:
            yield
        except Exception as error:
            if self.num > 1 and not (self.agreed or self.lost):
                self.agree(error)
            raise

    @contextlib.contextmanager
    def agreement(self) -> Iterator[None]:
        """Every rank does what is in here, or none goes on."""
        with self.telling():
            yield
        self.agree()

    def together(self, batches: Iterator[T]) -> Iterator[T]:
        """The same, each when every rank has its own."""
        while True:
            with self.agreement():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, in every one."""
        made: list[Any] = [None]
        with self.agreement():
            if self.is_first:
                made = [make()]
        if self.num > 1:
            with self.others_needed():
                dist.broadcast_object_list(made, group_src=0, group=self.group)
        found: T = made[0]
        return found

    def require_same(self, found: object, what: str) -> None:
        """ResourceError unless all ranks found what the first one did."""
        with self.agreement():
            if self.from_first(lambda: found) != found:
                message = f"rank {self.number} found another {what} than the first rank"
                raise ResourceError(message, hint="give all ranks one `out`, on a disk that all of them see")


ALONE = Ranks()


@contextlib.contextmanager
def joined(device: torch.device, reporter: Reporter) -> Iterator[Ranks]:
    """The ranks that `torchrun` started; without it this process alone. Only the first one goes on to speak.

    Stops are held until the ranks agree on one.

    Raises:
        UsageError: several ranks for one GPU.
    """
    if not is_launched():
        yield ALONE
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), dist.get_node_local_rank())
    reporter.quiet = not ranks.is_first
    if not ranks.is_first:
        reporter.close()
    with _stops_held(ranks):
        try:
            with ranks.agreement():
                _require_devices(device, ranks)
            yield ranks
            ranks.agree()
        except BaseException as error:
            if ranks.agreed or isinstance(error, DivergedError):  # that one all see in the same loss
                _leave(ranks)
            elif not ranks.lost:
                reporter.quiet = False  # the others wait for this one, and see it end
            raise
        _leave(ranks)


def _leave(ranks: Ranks) -> None:
    """Together: torchrun ends all when the first one ends with an error, and that one may yet be writing."""
    with contextlib.suppress(RuntimeError):
        dist.barrier(ranks.group)
    dist.destroy_process_group()


def _require_devices(device: torch.device, ranks: Ranks) -> None:
    if device.type != "cuda" or ranks.num == 1:
        return
    if str(device) != device.type:
        message = f"distill.device: {device} is one GPU, and there are {ranks.num} ranks"
        raise UsageError(message, hint="set distill.device: cuda, of which each rank takes one")
    own, num = ranks.device(device), torch.cuda.device_count()
    if own.index >= num:
        message = f"rank {ranks.number} is number {own.index + 1} of this machine, which has {num} GPUs"
        raise UsageError(message, hint=f"start torchrun with --nproc-per-node {num}")
    torch.cuda.set_device(own)


@contextlib.contextmanager
def _stops_held(ranks: Ranks) -> Iterator[None]:
    """A stop is noted, and so is a second one: torchrun sends its own beside a terminal's."""

    def note(number: int, frame: FrameType | None) -> None:
        ranks.stopped_by = ranks.stopped_by or signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
