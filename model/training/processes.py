"""One training process, or many started by torchrun: `python -m torch.distributed.run ... -m model.pretrain ...`.

Plain torch and not accelerate: the loop divides by the targets of the whole global batch, cuts its batches itself and
seeds every part, which is what accelerate would do its own way; what is left are the few lines of this file.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.errors import InputError, TrainingError

_PR_SET_PDEATHSIG = 1
_PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: the first one validates and writes checkpoints alone."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together. `rank` is its number, 0 the one that logs and writes."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def add(self, values: Tensor) -> Tensor:
        """All-reduce by sum, element-wise: by gloo for the CPU's tensors, else by nccl.

        Raises:
            TrainingError: another process has ended.
        """
        if self.count == 1:
            return values
        total = values.clone()
        with self.collective():
            dist.all_reduce(total)
        return total

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Run a collective operation: another process's absence, however torch reports it, is a TrainingError."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise TrainingError(
                f"process {self.rank} of {self.count} lost another one; what that one said last is the reason"
            ) from error

    def meet(self) -> None:
        """Wait at a barrier until every process is here."""
        self.add(torch.zeros(1))

    def share(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes at each backward pass that is not `held`."""
        if self.count == 1:
            return module
        return DistributedDataParallel(module, gradient_as_bucket_view=True)


def held(module: nn.Module, hold: bool) -> AbstractContextManager[None]:
    """Accumulate gradients locally, without all-reduce, while this is open with `hold`."""
    if hold and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started beside this one, or be the only one.

    Args:
        device: auto, cpu, cuda or cuda:N; with several processes on a machine each has the GPU of its number there.

    Raises:
        InputError: the device cannot be had.
    """
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, pick_device(device))
        return
    _die_with_parent()
    mine = _device_of_process(device, int(os.environ["LOCAL_RANK"]), count)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    # Tensors of either device may be added: counts and signals on the CPU, so that no step waits for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if mine.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield Processes(rank, count, mine)
    # Not after an error: the others may wait in a collective that this process will never join, and it for them.
    dist.destroy_process_group()


def _die_with_parent() -> None:
    """Have the kernel kill this process when torchrun ends. Linux only.

    torchrun gives each of its processes a group of its own: killing torchrun would not reach them, nor stop them.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU.

    Raises:
        InputError: it is no device, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but torch sees no GPU; set device to 'cpu' or 'auto'")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is unknown; set device to auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} was asked for, but torch sees only {torch.cuda.device_count()} GPUs")
    return device


def _device_of_process(name: str, local_rank: int, count: int) -> torch.device:
    device = pick_device(name)
    if device.type == "cpu":
        return device
    if ":" in name:
        raise InputError(f"device {name!r} cannot serve {count} processes; set device to 'auto' or 'cuda'")
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"process {local_rank} of this machine has no GPU: torch sees {torch.cuda.device_count()}; "
            "start one process for each GPU"
        )
    return torch.device("cuda", local_rank)
