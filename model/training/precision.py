"""Decide `auto`, for precision and pairs a pass, by the device and the model's width.

    python -m model.training.precision DEVICE HIDDEN_SIZE        prints fp32 or bf16

Importing this brings no torch along: whoever only wants to know whether the width allows bf16 need not wait for it.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from typing import TYPE_CHECKING, Literal, TypeVar

from model.config import LoopConfig
from model.errors import InputError
from model.families.config import EncoderConfig

if TYPE_CHECKING:
    import torch

    from model.training.processes import Processes

Taken = Literal["fp32", "bf16"]
Asked = Literal["auto", "fp32", "bf16"]
L = TypeVar("L", bound=LoopConfig)

_WIDE_FOR_BF16 = 256
"""H from which bf16 pays: below it the conversions may cost a CPU more than the shorter products save."""
_WIDE_FOR_SMALL_BATCHES = 512
_SMALL, _MIDDLE, _LARGE = 8, 32, 256
_log = logging.getLogger(__name__)


def is_wide(hidden_size: int) -> bool:
    """Whether bf16 pays at this width, on a device that computes it."""
    return hidden_size >= _WIDE_FOR_BF16


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has bf16 instructions; without them bf16 is many times slower than fp32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if platform.machine() in ("aarch64", "arm64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # That question is no good on x86, where it counts AVX-512 without bf16 as well.
    return torch.cpu._is_avx512_bf16_supported() and not _onednn_is_held_back()


def _onednn_is_held_back() -> bool:
    """Whether the user keeps oneDNN, torch's multiplier, from the processor's bf16 instructions."""
    most = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    return not any(part in most.upper() for part in ("DEFAULT", "ALL", "BF16", "FP16", "AMX", "AVX10"))


def choose_precision(asked: Asked, device: torch.device, hidden_size: int) -> Taken:
    """bf16 where it was asked for, or for auto where the model is wide enough and the device computes it."""
    if asked == "bf16" and not computes_bf16(device):
        _log.warning("precision=bf16, but %s has no instructions for it: fp32 is many times faster", device)
    if asked != "auto":
        return asked
    return "bf16" if is_wide(hidden_size) and computes_bf16(device) else "fp32"


def agree_on_precision(asked: Asked, processes: Processes, hidden_size: int) -> Taken:
    """`choose_precision` for processes that work together: bf16 only if all of them choose it."""
    import torch

    taken = choose_precision(asked, processes.device, hidden_size)
    others = int(processes.add(torch.tensor(int(taken == "fp32"))))
    return "fp32" if others else "bf16"


def with_precision(config: L, processes: Processes, encoder: EncoderConfig) -> L:
    """A training's config with its precision decided."""
    taken = agree_on_precision(config.precision, processes, encoder.hidden_size)
    if config.precision == "auto" and processes.is_first:
        _log.info("training in %s, for precision=auto", taken)
    return config.model_copy(update={"precision": taken})


def choose_batch_size(asked: int | Literal["auto"], device: torch.device, hidden_size: int) -> int:
    """Pairs a pass of scoring: few on a CPU, whose caches are small, many on a GPU."""
    if asked != "auto":
        return asked
    if device.type != "cpu":
        return _LARGE
    return _SMALL if hidden_size >= _WIDE_FOR_SMALL_BATCHES else _MIDDLE


def _main(device: str, hidden_size: int) -> None:
    from model.training.processes import pick_device

    try:
        taken = choose_precision("auto", pick_device(device), hidden_size)
    except InputError:
        taken = "fp32"  # There is no such device, as whoever is to compute there will say.
    print(taken)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
