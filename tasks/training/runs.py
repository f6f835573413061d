"""Find a training run under ROOT/runs by name, one of its checkpoints, and the features that it can read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from model.config import LoaderConfig
from model.downstream.tasks import RETRIEVAL
from model.families.configs import AnyEncoderConfig, read_encoder
from tasks.errors import UserError
from tasks.features.feature_sets import FEATURES
from tasks.records import CheckpointRef, Stage
from tasks.storage.digests import file_sha256
from tasks.storage.local_copy import CHECKPOINT_RECORD, WEIGHTS, CheckpointFiles
from tasks.storage.paths import feature_manifest_path, run_folder
from tasks.storage.root import Root
from tasks.training.data import ResolvedData, resolve_features
from tasks.training.specs import FinalRecord

Setting = Literal["zero-shot", "task-specific", "pretrain+finetune"]
CheckpointChoice = Literal["result", "newest"] | int
"""result: what a complete run says its result is; newest: of the most steps, of a run under way, too; or a step."""

_SHOWN = 20


@dataclass(frozen=True)
class RunRef:
    """A training run, complete or not. `setting` is what its checkpoints are called in tables."""

    name: str
    stage: Stage
    setting: Setting
    seed: int
    task: str = RETRIEVAL

    @property
    def folder(self) -> str:
        """Below the root."""
        return run_folder(self.name)


class _Loop(BaseModel):
    """The part of a run's settings that is read here."""

    model_config = ConfigDict(frozen=True)

    seed: int
    start: str = "pretrained"


class _Job(BaseModel):
    """job.json of either kind of run. Other fields belong to the model room, and come and go with its versions."""

    model_config = ConfigDict(frozen=True)

    pretrain: _Loop | None = None
    finetune: _Loop | None = None
    task: str = RETRIEVAL


class _ModelConfig(BaseModel):
    """config.json of a checkpoint."""

    model_config = ConfigDict(frozen=True)

    extractor: str
    encoder: dict[str, Any] | None = None


def run_names(root: Root) -> list[str]:
    """Sorted names of the runs begun under a root."""
    return [name for name in root.names("runs") if root.exists(f"{run_folder(name)}/job.json")]


def find_run(root: Root, name: str) -> RunRef:
    """Find the run of this name, or the only one whose name begins with it.

    Raises:
        UserError: there is none, or several; the message names those that there are.
    """
    known = run_names(root)
    named = [name] if name in known else [other for other in known if name and other.startswith(name)]
    if len(named) != 1:
        problem = f"{len(named)} runs begin with {name!r}" if named else f"there is no run {name!r}"
        there = f"there are {_listed(named or known)}" if known else "none was begun there: run `unicoder-vl pretrain`"
        raise UserError(f"{problem} under {root.path('runs')}; {there}")
    path = f"{run_folder(named[0])}/job.json"
    job = root.read_model(path, _Job)
    if job is not None and job.pretrain is not None:
        return RunRef(named[0], Stage.PRETRAIN, "zero-shot", job.pretrain.seed)
    if job is not None and job.finetune is not None:
        setting: Setting = "pretrain+finetune" if job.finetune.start == "pretrained" else "task-specific"
        return RunRef(named[0], Stage.FINETUNE, setting, job.finetune.seed, job.task)
    raise UserError(f"{root.path(path)} describes neither a pretraining nor a finetuning run; name another run")


def checkpoint_choice(text: str) -> CheckpointChoice:
    """Parse a checkpoint as a command line or a file of parameters names it.

    Raises:
        UserError: it is none of the three.
    """
    if text == "result":
        return "result"
    if text == "newest":
        return "newest"
    if text.isdecimal():
        return int(text)
    raise UserError(f"there is no checkpoint {text!r}: it is result, newest or a step such as 5000")


def choose_checkpoint(root: Root, run: RunRef, choice: CheckpointChoice) -> CheckpointRef:
    """Choose one checkpoint of a run.

    Raises:
        UserError: it is not there; the message names the steps that are.
    """
    steps = _checkpoint_steps(root, run)
    there = f"it has checkpoints of step {_listed([str(step) for step in steps])}" if steps else "it has no checkpoint"
    final = root.read_model(f"{run.folder}/final.json", FinalRecord)
    if choice == "result":
        if final is None:
            advice = "take --checkpoint newest, or a step" if steps else "go on with the training"
            raise UserError(f"{root.path(run.folder)} is not a complete run; {there}: {advice}")
        step, gone = final.step, f"the result of {run.name}, step {final.step},"
    elif choice == "newest":
        if not steps:
            raise UserError(f"{root.path(run.folder)} has no checkpoint yet; go on with the training")
        step, gone = steps[-1], ""
    else:
        step, gone = choice, f"the checkpoint of {run.name} at step {choice}"
    if step not in steps:
        raise UserError(f"{gone} is not there: {there}; take one of these, or `newest`")
    folder = f"{run.folder}/{_checkpoint_name(step)}"
    is_result = final is not None and final.checkpoint == _checkpoint_name(step)
    return CheckpointRef(
        run=run.name,
        stage=run.stage,
        uri=root.path(folder),
        step=step,
        fingerprint=final.weights_sha256 if final is not None and is_result else _weights_sha256(root, folder, run),
    )


def _weights_sha256(root: Root, folder: str, run: RunRef) -> str:
    """Sha256 of a checkpoint's weights; on an object store from their record, or else by reading them through."""
    weights = f"{folder}/{WEIGHTS}"
    if root.is_local:
        return file_sha256(root.path(weights), f"checkpoint of {run.name}")
    record = root.read_model(f"{folder}/{CHECKPOINT_RECORD}", CheckpointFiles)
    if record is not None:
        return record.files[WEIGHTS].sha256
    with root.open(weights) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def checkpoint_extractor(root: Root, checkpoint: CheckpointRef) -> str:
    """Fingerprint of the extractor whose features a checkpoint reads.

    Raises:
        UserError: the checkpoint is gone, or is none of this program.
    """
    return _model_config(root, checkpoint).extractor


def _model_config(root: Root, checkpoint: CheckpointRef) -> _ModelConfig:
    path = f"{run_folder(checkpoint.run)}/{_checkpoint_name(checkpoint.step)}/config.json"
    config = root.read_model(path, _ModelConfig)
    if config is None:
        raise UserError(f"{root.path(path)} is not there; choose another checkpoint, or go on with the training")
    return config


def checkpoint_encoder(root: Root, checkpoint: CheckpointRef) -> AnyEncoderConfig:
    """The encoder of a checkpoint.

    Raises:
        UserError: the checkpoint is gone, or is none of this program.
    """
    return read_encoder(_model_config(root, checkpoint).encoder or {})


def features_on(root: Root, extractor: str) -> list[str]:
    """DATASET/SPLIT of every finished set of features by an extractor, sorted.

    Args:
        extractor: its fingerprint.
    """
    folder = f"{FEATURES}/{extractor[:12]}"
    return [
        f"{dataset}/{split}"
        for dataset in root.names(folder)
        if not dataset.endswith(".json")
        for split in root.names(f"{folder}/{dataset}")
        if root.exists(feature_manifest_path(extractor, dataset, split))
    ]


def data_for(
    root: Root, checkpoint: CheckpointRef, dataset: str, split: str, loader: LoaderConfig | None = None
) -> ResolvedData:
    """The features and captions of a split that a checkpoint can read.

    Raises:
        UserError: there are none; the message names the splits that have them.
    """
    extractor = checkpoint_extractor(root, checkpoint)
    known = features_on(root, extractor)
    if f"{dataset}/{split}" not in known:
        there = f"there are such of {_listed(known)}" if known else "there are none"
        raise UserError(
            f"{dataset}/{split} has no finished features under {root.uri} of the extractor that {checkpoint.run} reads "
            f"({extractor[:12]}); {there}: run `unicoder-vl extract` with the settings of {checkpoint.run}'s features"
        )
    return resolve_features(root, dataset, split, extractor, loader or LoaderConfig())


def _checkpoint_name(step: int) -> str:
    """Folder of a checkpoint, below its run's; see `model.training.checkpoint`."""
    return f"checkpoints/step-{step:07d}"


def _checkpoint_steps(root: Root, run: RunRef) -> list[int]:
    """Steps of a run's checkpoints, ascending."""
    named = (re.fullmatch(r"step-(\d+)", name) for name in root.names(f"{run.folder}/checkpoints"))
    steps = sorted(int(match[1]) for match in named if match)
    return [step for step in steps if root.exists(f"{run.folder}/{_checkpoint_name(step)}/model.safetensors")]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
