"""The one training loop: resume, step, log, validate, checkpoint, finish. Pretraining and finetuning bring the rest."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Protocol

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from model.config import LoopConfig
from model.data.feed import B, Split, Step, feed, split_batch
from model.data.matches import NEGATIVE_TRIES
from model.data.order import Part
from model.data.tokenizer import Vocabulary
from model.errors import InputError, TrainingError
from model.families.config import EncoderConfig, Heads
from model.families.model import VisionLanguageModel
from model.progress import DROPPED, Ending, report
from model.training.checkpoint import (
    Checkpoint,
    Keep,
    State,
    checkpoint_path,
    finish_run,
    list_checkpoints,
    load_model,
    load_training,
    save_checkpoint,
    write_job,
)
from model.training.identity import check_resumable
from model.training.losses import LossSums
from model.training.metrics_log import Journal, Pace
from model.training.optim import clip_and_step, make_optimizer, make_schedule
from model.training.processes import Processes, held
from model.training.tally import Tally

log = logging.getLogger(__name__)
STOPPED = 143
"""Exit status after SIGTERM: a checkpoint was written and the run can be resumed."""


@dataclass(frozen=True)
class Validation:
    """Held-out measures: `measure` takes the model, in evaluation mode, to a value for each of `names`."""

    names: tuple[str, ...]
    measure: Callable[[VisionLanguageModel], dict[str, float]]


class Reader(Protocol):
    """A feature store, or several."""

    @property
    def skipped_samples(self) -> int:
        """Places in batches that another sample took because theirs lies in a shard that was left out."""


@dataclass(frozen=True)
class Training(Generic[B]):
    """The parts that pretraining and finetuning bring to the loop."""

    stage: str
    job: BaseModel
    """What was asked for; written to the run folder."""
    run: Path
    config: LoopConfig
    encoder: EncoderConfig
    store: Reader
    identity: dict[str, Any]
    """What the weights depend on, as JSON; a run resumes only where it is the same."""
    heads: Heads
    """What the losses reach beside the encoder; other heads of a checkpoint stay as they are."""
    fresh_model: Callable[[], VisionLanguageModel]
    make_batch: Callable[[int, Part], B]
    """A part of the global batch of a step, which depends on the seed and the step alone."""
    losses: Callable[[VisionLanguageModel, B, int], LossSums]
    vocabulary: Vocabulary
    reads_cls: bool = True
    """Whether a loss reads [CLS]; if none does, the pooler stays as it is."""
    validation: Validation | None = None
    split: Callable[[int], Split] | None = None
    """Splits the global batch among so many processes. None: by batch_size and device_batch_size."""
    dropped_captions: int = 0
    """Captions that are too long to be learnt from; lines of metrics say how many, where there are any."""
    watch: Callable[[int, dict[str, float], dict[str, float]], dict[str, float]] | None = None
    """Looks at a step's line of metrics and at how many targets each loss had; gives what to add to the line."""


def train(task: Training[B], processes: Processes) -> Checkpoint | None:
    """Train to `config.steps` from the newest checkpoint of the run, or from a fresh model.

    Each step minimises the sum over the losses of their mean per target of the *global* batch, whatever number of
    processes and parts works it off. So another split gives the same gradient but for rounding where dropout is off;
    where it is on, other units drop out, for their random numbers are those of a part: the gradient is another sample
    of the same expectation. Batches and random numbers of a step depend on (seed, step, part) alone: on one CPU process
    a resumed run repeats bit for bit what the undisturbed run would have done. A step whose gradient is not finite is
    left out.

    Returns:
        The last checkpoint, which the first process wrote on its machine's disk; None when SIGTERM, to any of the
        processes, asked to stop (a checkpoint was written first).

    Raises:
        InputError: the run's checkpoints are of another identity, or not the same on every machine; the batch cannot
            be shared by the processes.
        TrainingError: too many steps in a row were left out, the device's memory or the disk is full.
    """
    config, device = task.config, processes.device
    split = task.split(processes.count) if task.split else _split_captions(config, processes.count)
    keep = Keep(config.keep_last, config.keep_best, config.best_is == "largest")
    if keep.best is not None and (task.validation is None or keep.best not in task.validation.names):
        known = ", ".join(task.validation.names) if task.validation else "nothing, for no validation data is given"
        raise InputError(f"keep_best is {keep.best}, but validation measures {known}")

    start = resume_point(task.run)
    check_same_start(processes, start.step if start else 0, task.run)
    if start:
        check_resumable(start, task.identity)
    first = start.step if start else 0
    model = load_model(start.path, task.encoder)[0] if start else task.fresh_model()
    for name in model.heads.keys() - task.heads.keys():
        model.head(name).requires_grad_(False)
    if not task.reads_cls:
        model.pooler.requires_grad_(False)
    model.to(device).train()
    optimizer = make_optimizer(model, config.optim)
    schedule = make_schedule(optimizer, config.optim, config.steps)
    if start:
        saved = load_training(start)
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
    losses = processes.share(_Losses(model, task.losses))

    if processes.is_first:
        write_job(task.run, task.job)
    journal = Journal(task.stage, task.run, first, config.steps) if processes.is_first else None
    tally, pace, skipped, missing = Tally(processes), Pace(device), 0, Missing(task.stage)
    if start and (interval := saved.get("interval")):  # Absent from checkpoints of earlier versions.
        tally.restore(interval)
        skipped, missing.count = saved["skipped"], saved["skipped_negatives"]
    if journal:
        log.info("%s, step %d of %d: %s", task.stage, first, config.steps, split)

    saved_at = start.step if start else None

    def checkpoint(step: int, measured: dict[str, float]) -> None:
        nonlocal saved_at
        with pace.paused():
            interval = tally.state()
            if processes.is_first:
                state = State(step=step, identity=task.identity, split=str(split), validation=measured)
                training = {
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "interval": interval,
                    "skipped": skipped,
                    "skipped_negatives": missing.count,
                }
                save_checkpoint(task.run, state, model, task.vocabulary.words, training, keep)
            # No process may end while the first one writes: torchrun would kill that one too.
            processes.meet()
        saved_at = step

    def validate(step: int, validation: Validation) -> dict[str, float]:
        with pace.paused():
            measured = {}
            if journal:
                # Every step seeds the random numbers anew, so this leaves no trace in training.
                torch.manual_seed(config.seed)
                measured = validation.measure(model.eval())
                model.train()
                journal.write(step, measured)
            processes.meet()
        return measured

    steps = feed(task.make_batch, split.of(processes.rank), device, first, config.steps)
    with StopSignal() as stop:
        for step in range(first + 1, config.steps + 1):
            asked = time.monotonic()
            batch = next(steps)
            pace.step_begins(asked)
            targets, not_found, stops = _agree(processes, batch.targets, batch.missing, stop.asked)
            if stops:
                if saved_at != step - 1:
                    checkpoint(step - 1, {})
                log.warning("%s was asked to stop: checkpoint written at step %d", task.stage, step - 1)
                if not stop.asked:
                    # Its parent may be on another machine than the one that was asked to stop.
                    why = f"{task.stage} was asked to stop in another of its processes, at step {step - 1}"
                    report(Ending(error=f"{why}; it goes on from there", bad_input=False))
                return None
            targets = targets.to(device, non_blocking=True)
            try:
                with processes.collective():
                    done = _backward(losses, batch, targets, processes, split, step, config)
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    f"{task.stage} step {step}: {device} ran out of memory with {split.part_size} {split.unit} at "
                    f"once; set {split.limit} to {max(1, split.part_size // 2)}, the run goes on from its last "
                    "checkpoint"
                ) from error
            rate = float(schedule.get_last_lr()[0])
            norm = clip_and_step(optimizer, config.optim, step)
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            tally.add(done, targets, norm)
            missing.add(not_found)
            pace.step_ends()

            last = step == config.steps
            if last or step % config.log_steps == 0:
                means, bad, bad_in_row = tally.take()
                skipped += bad
                left_out = int(processes.add(torch.tensor(task.store.skipped_samples)))
                if bad and journal:
                    log.warning("%s step %d: %d steps skipped, a gradient was not finite", task.stage, step, bad)
                if bad_in_row > config.max_bad_steps:
                    raise TrainingError(
                        f"{task.stage} step {step}: {bad_in_row} steps in a row had a gradient that is not finite; "
                        "lower optim.learning_rate or look for broken features"
                    )
                if journal:
                    missing.tell(step, last)
                    means |= task.watch(step, means, tally.taken) if task.watch else {}
                    speed = pace.take(split)
                    left = {"skipped": skipped, "skipped_samples": left_out, "skipped_negatives": missing.count}
                    if task.dropped_captions:
                        left |= {DROPPED: task.dropped_captions}
                    journal.write(step, means | {"learning_rate": rate} | speed | left)
            if journal:
                journal.progress(step)
            validates = config.validation_steps is not None and (last or step % config.validation_steps == 0)
            measured = validate(step, task.validation) if task.validation and validates else {}
            # The value that decides which checkpoint is best is kept in that checkpoint.
            if last or step % config.checkpoint_steps == 0 or (validates and keep.best):
                checkpoint(step, measured)
    newest = Checkpoint(checkpoint_path(task.run, config.steps), config.steps)
    if processes.is_first:
        finish_run(task.run, newest, keep)
    return newest


def _split_captions(config: LoopConfig, processes: int) -> Split:
    return split_batch(config.batch_size, config.device_batch_size, processes)


class _Losses(nn.Module):
    """Model and loss function as one module, so that DistributedDataParallel sees one forward pass."""

    def __init__(self, model: VisionLanguageModel, losses: Callable[[VisionLanguageModel, Any, int], LossSums]) -> None:
        super().__init__()
        self.model = model
        self._losses = losses

    def forward(self, part: Any, step: int) -> LossSums:
        return self._losses(self.model, part, step)


def check_same_start(processes: Processes, step: int, run: Path) -> None:
    """Raise InputError, in every process, unless all resume at the first one's step.

    Machines that share a folder cannot disagree; each with a copy of its own may.
    """
    first = int(processes.add(torch.tensor(step if processes.is_first else 0)))
    others = int(processes.add(torch.tensor(int(step != first))))
    if others:
        where = f"this one has step {step}" if step != first else "others do not have it"
        raise InputError(
            f"{others} of {processes.count} processes would not go on from step {first} of {run}, as the first one "
            f"does ({where}): every machine needs the newest checkpoint; see that they share the folder or the object "
            "store it comes from, and start again"
        )


def _agree(processes: Processes, targets: Tensor, missing: int, stop: bool) -> tuple[Tensor, int, bool]:
    """Targets (K,) and missing negatives of the global batch, and whether any process was asked to stop.

    On the CPU: no GPU is waited for.
    """
    total = processes.add(torch.cat([targets, torch.tensor([float(missing), float(stop)])]))
    return total[:-2], int(total[-2]), bool(total[-1])


class Missing:
    """Counts missing negatives, and logs them: at this process's first one, and at the end."""

    def __init__(self, stage: str) -> None:
        self.count, self._stage, self._told = 0, stage, False

    def add(self, number: int) -> None:
        self.count += number

    def tell(self, step: int, last: bool) -> None:
        """Log the count, if it has grown since the last time."""
        if self.count and (last or not self._told):
            self._told = True
            log.warning(
                "%s step %d: %d negatives were not found, all of %d draws being true of the other side, as where many "
                "captions read alike; their places stay empty (skipped_negatives in metrics.jsonl)",
                self._stage,
                step,
                self.count,
                NEGATIVE_TRIES,
            )


def _backward(
    losses: nn.Module,
    batch: Step[B],
    targets: Tensor,
    processes: Processes,
    split: Split,
    step: int,
    config: LoopConfig,
) -> list[LossSums]:
    """Gradients of one step, summed over this process's parts and, with the last part, averaged over all processes."""
    done = []
    parts = batch.take()
    for number, part in enumerate(parts):
        with held(losses, number < len(parts) - 1):
            torch.manual_seed(_seed(config.seed, step, split.of(processes.rank)[number].index))
            with torch.autocast(processes.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                sums: LossSums = losses(part, step - 1)
            # Times the processes, for their gradients are averaged.
            loss = processes.count * (sums.sums / targets.clamp(min=1)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        done.append(LossSums(sums.names, sums.sums.detach(), sums.correct))
    return done


def _seed(seed: int, step: int, part: int) -> int:
    """Seed the random numbers (dropout) of one part of one step."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0])


def resume_point(run: Path) -> Checkpoint | None:
    """The newest checkpoint to resume from, or None at the start of a run."""
    checkpoints = list_checkpoints(run)
    return checkpoints[-1] if checkpoints else None


def set_up_torch(num_threads: int | None) -> None:
    if num_threads is not None:
        torch.set_num_threads(num_threads)


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
