"""Number of GPUs that a process would see, without importing torch, which takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def visible_gpus(folder: Path = _NVIDIA) -> int:
    """Number of NVIDIA GPUs that CUDA_VISIBLE_DEVICES lets programs see.

    Args:
        folder: where the driver lists them, a folder each; it does so in containers, too.
    """
    present = len(list(folder.iterdir())) if folder.is_dir() else 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not present:
        return present
    # As CUDA reads the list: it ends at the first entry that names no GPU.
    count = 0
    for name in chosen.split(","):
        name = name.strip()
        if not name or name.startswith("-") or (name.isdigit() and int(name) >= present):
            break
        count += 1
    return count
