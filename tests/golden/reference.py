"""Arrays of a reference program, and the comparison of ours with them, group by group.

A file is safetensors: `w/` weights under the program's own names, `in/` inputs, `out/` outputs, `grad/LOSS/NAME` norms
of gradients, `grad_full/` whole gradients, `extend/` how tables grow. Its README says what each array means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

OUTPUT_TOLERANCE = 1e-5
"""Of an output, against the larger of 1 and its size."""
NORM_TOLERANCE = 2e-5
"""Of the norm of a gradient, relative."""
LEAST_NORM = 1e-2
"""Smaller norms than this share of a loss's largest are compared as if they were that large: the largest's rounding.

The bias of attention's keys has a gradient of zero, and so has that of scores that a softmax compares: of these a
program sees rounding alone.
"""


@dataclass(frozen=True)
class Reference:
    """One file: its arrays, by prefix and name, and its metadata."""

    name: str
    arrays: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Reference:
        with safe_open(path, "pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return cls(path.name, arrays, file.metadata() or {})

    @property
    def config(self) -> dict[str, Any]:
        return dict(json.loads(self.metadata["config"]))

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The arrays below a prefix, by the rest of their names."""
        return {name.removeprefix(prefix): one for name, one in self.arrays.items() if name.startswith(prefix)}


@dataclass
class Verdict:
    """What came of one group of arrays: its largest difference, as a share of what is allowed, and where that is."""

    compared: int = 0
    difference: float = 0.0
    share: float = 0.0
    worst: str = ""
    missing: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        if self.missing:
            return f"not tried: {', '.join(self.missing[:3])}" + (" ..." if self.missing[3:] else "")
        return "ok" if self.passes else f"DIFFERS at {self.worst}"

    @property
    def passes(self) -> bool:
        return not self.missing and self.share <= 1


class Comparison:
    """Ours against one file. What is never given to it counts as not tried."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        wanted = [name for name in reference.arrays if not name.startswith(("w/", "in/"))]
        self._groups = {self._group(name): Verdict() for name in wanted}
        self._open = dict.fromkeys(wanted)

    @staticmethod
    def _group(name: str) -> str:
        parts = name.split("/")
        # A file of one loss has none in the names of its gradients.
        return "grad" if parts[0] == "grad" and len(parts) == 2 else "/".join(parts[:2])

    def output(self, name: str, ours: Tensor, mask: Tensor | None = None) -> None:
        """Compare an array; where mask is False there is padding."""
        theirs = self._reference.arrays[name]
        self._open.pop(name, None)
        if ours.shape != theirs.shape:
            self._add(name, float("inf"), float("inf"))
            return
        theirs, ours = theirs.double(), ours.detach().double()
        difference = (ours - theirs).abs()
        share = difference / (OUTPUT_TOLERANCE * theirs.abs().clamp(min=1))
        if mask is not None:
            difference, share = difference[mask], share[mask]
        self._add(
            name, *(float(one.nan_to_num(torch.inf).max()) if one.numel() else 0.0 for one in (difference, share))
        )

    def norms(self, loss: str, ours: Mapping[str, float]) -> None:
        """Compare the gradients' norms of a loss; a weight that the file does not name has none, or zero."""
        theirs = {name: float(norm) for name, norm in self._reference.under(f"grad/{loss}/").items()}
        scale = max(theirs.values())
        for name in sorted(theirs.keys() | ours.keys()):
            expected, found = theirs.get(name, 0.0), ours.get(name, 0.0)
            difference = abs(found - expected) / max(expected, LEAST_NORM * scale)
            self._open.pop(f"grad/{loss}/{name}", None)
            self._add(f"grad/{loss}/{name}", difference, difference / NORM_TOLERANCE)

    def verdicts(self) -> Iterator[tuple[str, Verdict]]:
        """Of every group of the file, in the order of their names."""
        for name in self._open:
            self._groups[self._group(name)].missing.append(name)
        yield from sorted(self._groups.items())

    def _add(self, name: str, difference: float, share: float) -> None:
        verdict = self._groups.setdefault(self._group(name), Verdict())
        verdict.compared += 1
        verdict.difference = max(verdict.difference, difference)
        if share >= verdict.share:
            verdict.share, verdict.worst = share, name
