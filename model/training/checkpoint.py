"""Checkpoints, written whole or not at all.

RUN/job.json                      what the run was asked to do
RUN/checkpoints/step-0000700/     config.json, model.safetensors (save_pretrained), vocab.txt and
                                  tokenizer_config.json (as transformers reads them; older ones lack the
                                  latter: they are lower-casing), optimizer.pt, state.json (`State`)
RUN/final.json                    names the result's checkpoint; written when the run is complete
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from feature_extraction.weight_files import WeightsError, check_numbers, content_problem, plain_reason
from model.data.tokenizer import Vocabulary, load_vocabulary
from model.data.word_pieces import WordPieces, save_words
from model.errors import InputError, TrainingError
from model.families.config import EncoderConfig
from model.families.configs import read_encoder
from model.families.fit import check_vocabulary
from model.families.model import VisionLanguageModel
from model.publish import disk_room, sync, sync_folder, write_whole

_WEIGHTS = "model.safetensors"
_DIGEST_SHOWN = 12


class CheckpointError(InputError):
    """A checkpoint that is absent, damaged or of another kind. The message names it and what to do."""


class State(BaseModel):
    """A checkpoint's record of itself."""

    # A value that is not finite is written as it is: as null, the default, it could not be read back.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    step: int
    identity: dict[str, Any] = {}
    """What the weights depend on, see `model.training.identity`."""
    split: str = ""
    """How the batch of a step was cut when it was written."""
    validation: dict[str, float] = {}
    """The values measured at this step, if any were."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int

    def state(self) -> State:
        """
        Raises:
            CheckpointError: it is damaged, or was written by another version of this program.
        """
        try:
            return State.model_validate_json((self.path / "state.json").read_bytes())
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.path} lacks its state.json; delete this folder") from error
        except ValidationError as error:
            raise CheckpointError(f"{self.path} is of another version of this program; start a new run") from error


@dataclass(frozen=True)
class Keep:
    """Which checkpoints to keep: the newest `last`, and the best by a validation value if one is named."""

    last: int = 2
    best: str | None = None
    largest: bool = True


def checkpoint_path(run: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return run / "checkpoints" / f"step-{step:07d}"


def save_checkpoint(
    run: Path, state: State, model: VisionLanguageModel, words: WordPieces, training: dict[str, Any], keep: Keep
) -> Checkpoint:
    """Write a checkpoint under a hidden name, sync it, rename it; then drop old ones.

    Args:
        training: what `torch.save` can hold, for resuming (optimiser and schedule).

    Raises:
        TrainingError: it could not be written, for instance on a full disk; what was there before is as it was.
    """
    folder, target = run / "checkpoints", checkpoint_path(run, state.step)
    part = folder / f".{target.name}.part"
    try:
        for left in folder.glob(".step-*.part"):
            shutil.rmtree(left)
        part.mkdir(parents=True)
        model.save_pretrained(part)
        save_words(words, part)
        torch.save(training, part / "optimizer.pt")
        (part / "state.json").write_text(state.model_dump_json(indent=2) + "\n")
        # safetensors lets nobody but the owner read; a shared root's group does as this process's umask says.
        mode = stat.S_IMODE((part / "state.json").stat().st_mode)
        for file in part.iterdir():
            if stat.S_IMODE(file.stat().st_mode) != mode:
                file.chmod(mode)
            sync(file)
        sync_folder(part)
        part.rename(target)
        sync_folder(folder)
    # torch and safetensors, both written in part in other languages, report a full disk as errors of their own.
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        before = list_checkpoints(run)
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"{folder}: the checkpoint of step {state.step} could not be written ({reason}; {disk_room(folder)}); make "
            "room there and start again: the run goes on from "
            + (f"step {before[-1].step}" if before else "its beginning")
        ) from error
    _drop_old(run, keep)
    return Checkpoint(target, state.step)


def _drop_old(run: Path, keep: Keep) -> None:
    best = best_checkpoint(run, keep)
    for old in list_checkpoints(run)[: -keep.last]:
        if old != best:
            # Under a hidden name, so that a kill meanwhile leaves no checkpoint that lacks a file.
            shutil.rmtree(old.path.rename(old.path.with_name(f".{old.path.name}.part")))


def list_checkpoints(run: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run, oldest first."""
    named = [(path.name.removeprefix("step-"), path) for path in (run / "checkpoints").glob("step-*")]
    return sorted((Checkpoint(path, int(step)) for step, path in named if step.isdecimal()), key=lambda one: one.step)


def best_checkpoint(run: Path, keep: Keep) -> Checkpoint | None:
    """The checkpoint with the best value of `keep.best`, the earliest of equals; None where none is finite."""
    if keep.best is None:
        return None
    sign = 1 if keep.largest else -1
    values = [(one.state().validation.get(keep.best, math.nan), one) for one in list_checkpoints(run)]
    measured = [(sign * value, one) for value, one in values if math.isfinite(value)]
    return max(measured, key=lambda pair: pair[0])[1] if measured else None


def finish_run(run: Path, last: Checkpoint, keep: Keep) -> None:
    """Write final.json, last and whole: from now on the run counts as complete.

    Its result is the best checkpoint where `keep` names a value, else the last one.
    """
    result = best_checkpoint(run, keep) or last
    final = {
        "step": result.step,
        "checkpoint": result.path.relative_to(run).as_posix(),
        "weights_sha256": weights_sha256(result.path),
    }
    write_whole(run / "final.json", json.dumps(final, indent=2) + "\n")


def write_job(run: Path, job: BaseModel) -> None:
    """Record what the run was asked to do, making its folder.

    Raises:
        InputError: the folder cannot be made or written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_whole(run / "job.json", job.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise InputError(
            f"run folder {run} cannot be written ({error.strerror}); set run_path to another one"
        ) from error


def load_model(path: str | Path, encoder: EncoderConfig | None = None) -> tuple[VisionLanguageModel, Vocabulary]:
    """Load a checkpoint's model (in evaluation mode) and its vocabulary.

    Args:
        path: folder of the checkpoint.
        encoder: of the job that goes on from here, which decides what is no part of a model's identity
            (`EncoderConfig.identity`). None: the checkpoint's own.

    Raises:
        CheckpointError: not a checkpoint of this program, or weights are missing, of another shape or not finite.
        InputError: it was trained with another encoder than the job's; its vocabulary is missing, damaged or not of
            the size of its embeddings.
    """
    folder = Path(path)
    file = _weights(folder)
    settings: dict[str, Any] = {}
    if encoder is not None:
        _check_encoder(folder, encoder)
        settings = {"encoder": encoder.model_dump(mode="json")}
    try:
        if (problem := content_problem(file)) is not None:
            raise CheckpointError(f"{file} {problem}")
        # strict: a missing, unexpected or mis-shaped weight is an error, never a random layer. The weights are copied
        # into torch's own memory; views of the mapped file lie at any alignment, and by alignment the CPU's matrix
        # kernels may round differently, so that a resumed run would not equal the undisturbed one bit for bit.
        model = VisionLanguageModel.from_pretrained(folder, local_files_only=True, strict=True, **settings)
        check_numbers(model.state_dict())
    except CheckpointError:
        raise
    except WeightsError as error:
        raise CheckpointError(f"{file} {error}, or train this run again") from error
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be loaded ({error}); train this run again") from error
    vocabulary = load_vocabulary(folder)
    check_vocabulary(model, vocabulary, str(folder))
    return model.eval(), vocabulary


def _check_encoder(folder: Path, encoder: EncoderConfig) -> None:
    """Raise InputError, naming every difference, unless the checkpoint's encoder equals this one in all that decides
    weights.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        own = read_encoder(config["encoder"] or {})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read ({error}); train this run again") from error
    if found := differences({"encoder": own.identity()}, {"encoder": encoder.identity()}):
        raise InputError(
            f"{folder} was trained with another encoder than this job's: {'; '.join(found)}; use the encoder that it "
            "was trained with, or train it again"
        )


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Differences of two nested settings by name, such as `pretrain.seed was 0, is 3`."""
    old, new = dict(_flat(then)), dict(_flat(now))
    return [
        f"{name} was {_shown(old.get(name))}, is {_shown(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) < 64 else text[:_DIGEST_SHOWN]


def load_training(checkpoint: Checkpoint) -> dict[str, Any]:
    """Load the state that `save_checkpoint` was given for resuming.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = checkpoint.path / "optimizer.pt"
    try:
        if (problem := content_problem(path)) is not None:
            raise WeightsError(problem)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error) if isinstance(error, WeightsError) else plain_reason(error)
        raise CheckpointError(
            f"{path} {reason}; or delete the folder of this checkpoint, and the run goes on from the one before"
        ) from error
    return state


def weights_sha256(path: Path) -> str:
    """Sha256 of a checkpoint's weight file, which evaluations are recorded against.

    Raises:
        CheckpointError: it has none.
    """
    with _weights(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _weights(folder: Path) -> Path:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: no {_WEIGHTS}; name a folder such as RUN/checkpoints/step-…"
        )
    return path
