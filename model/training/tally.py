"""Sums since the last line of metrics, kept where they arise: nothing waits for a GPU until it is asked."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from model.training.losses import LossSums
from model.training.processes import Processes


class Tally:
    """Losses, right answers, gradient lengths and skipped steps of an interval, over all processes.

    An interval that a checkpoint cuts goes on in the run that resumes from it (`state`, `restore`), so that its line
    of metrics is of all its steps.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._names: tuple[str, ...] = ()
        self._own = torch.zeros(0)
        """(2 K,) sums and right answers of this process's parts."""
        self._common = torch.zeros(0)
        """(K + 2,) targets of all processes, gradient length, steps: the same in each process."""
        self._in_row = torch.zeros((), device=processes.device)
        self._longest = torch.zeros((), device=processes.device)
        self._steps = 0
        self.taken: dict[str, float] = {}
        """Targets of each loss in the interval that was taken last."""

    def add(self, parts: list[LossSums], targets: Tensor, gradient_norm: Tensor) -> None:
        """Count a step.

        Args:
            parts: what the loss function said about each part of this process.
            targets: (K,) of the whole global batch, on the device.
            gradient_norm: scalar; where it is not finite the step was skipped and counts as such only.
        """
        finite = torch.isfinite(gradient_norm)
        own = torch.stack([torch.cat([part.sums.detach(), part.correct]) for part in parts]).sum(0)
        common = torch.cat([targets, gradient_norm.reshape(1), torch.ones_like(gradient_norm).reshape(1)])
        if not self._names:
            self._names, self._own, self._common = parts[0].names, torch.zeros_like(own), torch.zeros_like(common)
        self._own += torch.where(finite, own, 0)
        self._common += torch.where(finite, common, 0)
        self._in_row = torch.where(finite, 0, self._in_row + 1)
        self._longest = torch.maximum(self._longest, self._in_row)
        self._steps += 1

    def state(self) -> dict[str, Any]:
        """The interval so far, for a checkpoint. Every process must call it at the same step."""
        own = self._processes.add(self._own)
        return {
            "names": list(self._names),
            "own": own.to("cpu", copy=True),
            "common": self._common.to("cpu", copy=True),
            "in_row": self._in_row.to("cpu", copy=True),
            "longest": self._longest.to("cpu", copy=True),
            "steps": self._steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue the interval of a checkpoint, whatever number of processes wrote it."""
        device = self._processes.device
        self._names, self._steps = tuple(state["names"]), int(state["steps"])
        # The first process takes what all had.
        self._own = state["own"].to(device) * int(self._processes.is_first)
        self._common, self._in_row, self._longest = (state[name].to(device) for name in ("common", "in_row", "longest"))

    def take(self) -> tuple[dict[str, float], int, int]:
        """The interval's means; then begin the next. Every process must call it at the same step.

        Returns:
            The mean of each loss over its targets and their sum as `loss`, the share of right answers as
            `NAME_accuracy` (both absent where there was no target), the mean gradient length; the steps skipped in
            this interval; and the most steps that were ever skipped in a row.
        """
        count = len(self._names)
        own = self._processes.add(self._own)
        numbers = torch.cat([own, self._common, self._longest.reshape(1)]).tolist()
        sums, correct, targets = numbers[:count], numbers[count : 2 * count], numbers[2 * count : 3 * count]
        norms, good, longest = numbers[3 * count :]
        means = loss_means(self._names, sums, correct, targets)
        self.taken = dict(zip(self._names, targets, strict=True))
        if good:
            means["gradient_norm"] = norms / good
        skipped = self._steps - round(good)
        self._own, self._common, self._steps = torch.zeros_like(self._own), torch.zeros_like(self._common), 0
        return means, skipped, round(longest)


def loss_means(
    names: tuple[str, ...], sums: list[float], correct: list[float], targets: list[float]
) -> dict[str, float]:
    """Loss and accuracy of each of K objectives per target, absent where there was none, and the sum of the losses.

    Args:
        correct: NaN for an objective that has no right and wrong.
    """
    seen = [number for number, count in enumerate(targets) if count]
    means = {"loss": sum(sums[number] / targets[number] for number in seen)} if seen else {}
    means |= {names[number]: sums[number] / targets[number] for number in seen}
    judged = [number for number in seen if not math.isnan(correct[number])]
    return means | {f"{names[number]}_accuracy": correct[number] / targets[number] for number in judged}
