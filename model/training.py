"""The one training loop: resume, step, log, checkpoint, finish. Pretraining and finetuning bring batches and a loss."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, finish_run, list_checkpoints, load_model, load_training, save_checkpoint
from model.config import LoopConfig
from model.data import Movable, prefetch
from model.encoder import UnicoderVL
from model.errors import InputError
from model.optim import make_optimizer, make_schedule
from model.progress import Progress, report

log = logging.getLogger(__name__)
STOPPED = 143
"""Exit status after SIGTERM: a checkpoint was written and the run can be resumed."""


B = TypeVar("B", bound=Movable)
LossFunction = Callable[[UnicoderVL, B, int], tuple[Tensor, dict[str, Tensor]]]
"""Model, batch and step to the loss (scalar) and what to log beside it (scalars)."""


class TrainingError(RuntimeError):
    """Training cannot go on. The message names the step and what to do."""


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU.

    Raises:
        InputError: a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but torch sees no GPU; set device to 'cpu' or 'auto'")
    return torch.device(name)


def set_up_torch(num_threads: int | None) -> None:
    if num_threads is not None:
        torch.set_num_threads(num_threads)


def resume_point(run: Path) -> Checkpoint | None:
    """The newest checkpoint to go on from, or None at the start of a run."""
    checkpoints = list_checkpoints(run)
    return checkpoints[-1] if checkpoints else None


def train(
    stage: str,
    run: Path,
    fresh_model: Callable[[], UnicoderVL],
    make_batch: Callable[[int], B],
    loss_function: LossFunction[B],
    config: LoopConfig,
    vocabulary_path: str,
    validate: Callable[[UnicoderVL], dict[str, float]] | None = None,
    validation_steps: int | None = None,
) -> Checkpoint | None:
    """Train to `config.steps` from the newest checkpoint of the run, or from `fresh_model()`.

    The batch of a step and the random numbers of a step depend on (seed, step) alone, so on one CPU process a resumed
    run repeats bit for bit what the undisturbed run would have done. A loss that is not finite skips its step.

    Returns:
        The last checkpoint; None when SIGTERM asked to stop (a checkpoint was written first).

    Raises:
        TrainingError: `max_bad_steps` losses in a row were not finite.
    """
    device = pick_device(config.device)
    start = resume_point(run)
    model = load_model(start.path)[0] if start else fresh_model()
    model.to(device).train()
    optimizer = make_optimizer(model, config.optim)
    schedule = make_schedule(optimizer, config.optim, config.steps)
    if start:
        saved = load_training(start)
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        log.info("%s goes on at step %d of %d", stage, start.step, config.steps)
    first = start.step if start else 0
    _drop_metrics_after(run / "metrics.jsonl", first)

    def checkpoint(step: int) -> Checkpoint:
        training = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        return save_checkpoint(run, step, model, vocabulary_path, training)

    meter = _Meter(stage, run / "metrics.jsonl", first, config)
    bad = 0
    step = first
    with StopSignal() as stop:
        for step, batch in enumerate(prefetch(make_batch, first, config.steps), start=first + 1):
            torch.manual_seed(config.seed * 1_000_003 + step)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss, extras = loss_function(model, batch.to(device), step - 1)
            finite = bool(torch.isfinite(loss))
            if finite:
                loss.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.max_grad_norm)
                finite = bool(torch.isfinite(norm))
            if finite:
                optimizer.step()
                bad = 0
            else:
                bad += 1
                log.warning("%s step %d: loss or gradient is not finite; step skipped", stage, step)
                if bad > config.max_bad_steps:
                    raise TrainingError(
                        f"{stage} step {step}: {bad} losses in a row were not finite; "
                        "lower optim.learning_rate or look for broken features"
                    )
            with warnings.catch_warnings():
                # A skipped first step is a schedule step before any optimiser step, and meant.
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
                schedule.step()
            optimizer.zero_grad(set_to_none=True)
            meter.add(step, {"loss": loss.detach(), **extras}, float(schedule.get_last_lr()[0]), skipped=not finite)
            if validate and validation_steps and (step % validation_steps == 0 or step == config.steps):
                meter.write(step, validate(model.eval()))
                model.train()
            if stop.asked and step < config.steps:
                checkpoint(step)
                log.warning("%s was asked to stop: checkpoint written at step %d", stage, step)
                return None
            if step % config.checkpoint_steps == 0 and step < config.steps:
                checkpoint(step)
    last = checkpoint(step) if start is None or step > first else start
    finish_run(run, last)
    return last


class StopSignal:
    """Turns SIGTERM into a flag that the loop looks at between steps."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


class _Meter:
    """Averages what the loop reports: to metrics.jsonl for people and the report, as progress to the parent."""

    def __init__(self, stage: str, path: Path, first: int, config: LoopConfig) -> None:
        self._stage, self._path, self._config = stage, path, config
        self._sums: dict[str, list[float]] = {}
        self._skipped = 0
        self._first, self._begun = first, time.monotonic()
        self._reported = self._begun

    def add(self, step: int, values: dict[str, Tensor], learning_rate: float, skipped: bool) -> None:
        self._skipped += skipped
        for name, value in values.items():
            number = value.item()
            if math.isfinite(number):
                self._sums.setdefault(name, []).append(number)
        at_log, total = step % self._config.log_steps == 0 or step == self._config.steps, self._config.steps
        now = time.monotonic()
        means = {name: sum(numbers) / len(numbers) for name, numbers in self._sums.items() if numbers}
        rate = (step - self._first) / max(now - self._begun, 1e-9)
        if now - self._reported > 2 or step == total:
            self._reported = now
            report(Progress(stage=self._stage, done=step, total=total, unit="steps", per_second=rate, metrics=means))
        if at_log:
            self.write(
                step, means | {"learning_rate": learning_rate, "steps_per_second": rate, "skipped": self._skipped}
            )
            self._sums = {}

    def write(self, step: int, values: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **rounded}) + "\n")


def _drop_metrics_after(path: Path, step: int) -> None:
    """Leave out the lines of steps that a killed run did after its last checkpoint: they are done again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed process may be cut
        if row["step"] <= step:
            kept.append(line)
    part = path.with_name(path.name + ".part")
    part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(part, path)  # noqa: PTH105
