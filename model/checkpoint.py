"""Checkpoints: whole or not at all.

RUN/job.json                      what the run was asked to do
RUN/checkpoints/step-0000700/     config.json, model.safetensors (save_pretrained), vocab.txt,
                                  optimizer.pt, state.json
RUN/final.json                    names the last checkpoint; written when the run is complete
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from model.encoder import UnicoderVL
from model.errors import InputError
from model.tokenizer import Vocabulary, load_vocabulary

_WEIGHTS = "model.safetensors"


class CheckpointError(InputError):
    """A checkpoint is absent, damaged or of another kind. Names it and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int


def save_checkpoint(
    run: Path, step: int, model: UnicoderVL, vocabulary_path: str, training: dict[str, Any], keep: int = 2
) -> Checkpoint:
    """Write a checkpoint under a hidden name, sync it, rename it; then drop all but the newest `keep`.

    Args:
        training: what `torch.save` can hold, for resuming (optimiser and schedule).
    """
    folder = run / "checkpoints"
    target, part = folder / f"step-{step:07d}", folder / f".step-{step:07d}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model.save_pretrained(part)
    shutil.copyfile(vocabulary_path, part / "vocab.txt")
    torch.save(training, part / "optimizer.pt")
    (part / "state.json").write_text(json.dumps({"step": step}) + "\n")
    for file in part.iterdir():
        _sync(file)
    _sync(part)
    if target.exists():
        shutil.rmtree(target)
    part.rename(target)
    _sync(folder)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old.path)
    return Checkpoint(target, step)


def list_checkpoints(run: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run, oldest first."""
    found = sorted((run / "checkpoints").glob("step-*"))
    return [Checkpoint(path, int(path.name.removeprefix("step-"))) for path in found]


def finish_run(run: Path, checkpoint: Checkpoint) -> None:
    """Write final.json, last and whole: from now on the run counts as complete."""
    final = {
        "step": checkpoint.step,
        "checkpoint": checkpoint.path.relative_to(run).as_posix(),
        "weights_sha256": weights_sha256(checkpoint.path),
    }
    write_whole(run / "final.json", json.dumps(final, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a small text file so that it is seen complete or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    _sync(part)
    part.replace(path)
    _sync(path.parent)


def load_model(path: str | Path) -> tuple[UnicoderVL, Vocabulary]:
    """A checkpoint's model (in evaluation mode) and its vocabulary.

    Raises:
        CheckpointError: not a checkpoint of this program, or weights are missing or of another shape.
    """
    folder = Path(path)
    if not (folder / _WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: no {_WEIGHTS}; name a folder such as RUN/checkpoints/step-…"
        )
    try:
        # strict: a missing, unexpected or mis-shaped weight is an error, never a random layer. The weights are copied
        # into torch's own memory; views of the mapped file lie at any alignment, and by alignment the CPU's matrix
        # kernels may round differently, so that a resumed run would not equal the undisturbed one bit for bit.
        model = UnicoderVL.from_pretrained(folder, local_files_only=True, strict=True)
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be loaded ({error}); train this run again") from error
    return model.eval(), load_vocabulary(folder / "vocab.txt")


def load_training(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `save_checkpoint` was given for resuming."""
    state: dict[str, Any] = torch.load(checkpoint.path / "optimizer.pt", map_location="cpu", weights_only=True)
    return state


def weights_sha256(path: Path) -> str:
    """Sha256 of a checkpoint's weights file: what an evaluation is recorded against."""
    with (path / _WEIGHTS).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
