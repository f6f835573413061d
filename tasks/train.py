"""Starts pretraining and finetuning, and finds runs again by their parameters.

A run's folder is named by the fingerprint of everything that its weights depend on: configs, the bytes of features,
captions and vocabulary, and for finetuning the weights it starts from. Paths, device, thread counts and how often it
logs do not enter. So the same parameters find the same run: complete, it is not run again; begun, it is resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from feature_extraction.config import ExtractorConfig
from model.config import (
    EncoderConfig,
    FeatureSource,
    FinetuneConfig,
    FinetuneJob,
    LoopConfig,
    PretrainConfig,
    PretrainJob,
    ScoringConfig,
)
from model.progress import Progress
from tasks.errors import StageError, UserError
from tasks.extractor import extractor_fingerprint
from tasks.launch import run_module
from tasks.records import CheckpointRef, Receipt, Stage, fingerprint
from tasks.storage import Root, captions_path, captions_receipt_path, feature_manifest_path, features_folder, run_folder

RUN_FORMAT = "run/1"
OnProgress = Callable[[Progress], None]

# These change how fast a run goes and what it writes about itself, not its weights.
_NOT_IN_FINGERPRINT = {"device", "num_threads", "log_steps", "checkpoint_steps", "validation_steps"}


@dataclass(frozen=True)
class DataSpec:
    """One split, seen through one extractor."""

    dataset: str
    split: str
    extractor: ExtractorConfig

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}"


@dataclass(frozen=True)
class PretrainSpec:
    """What a pretraining run is."""

    data: DataSpec
    vocabulary_path: str
    encoder: EncoderConfig
    pretrain: PretrainConfig


@dataclass(frozen=True)
class FinetuneSpec:
    """What a finetuning run is; `pretraining` is the run it starts from, None for task-specific training."""

    data: DataSpec
    vocabulary_path: str
    encoder: EncoderConfig
    finetune: FinetuneConfig
    pretraining: PretrainSpec | None
    validation: DataSpec | None = None
    scoring: ScoringConfig = field(default_factory=ScoringConfig)


class FinalRecord(BaseModel):
    """final.json, which a complete run writes last."""

    model_config = ConfigDict(frozen=True)

    step: int
    checkpoint: str
    weights_sha256: str


@dataclass(frozen=True)
class ResolvedData:
    """Where a split's features and captions lie, and what their bytes are."""

    source: FeatureSource
    identity: dict[str, str]


def resolve_data(root: Root, data: DataSpec) -> ResolvedData:
    """Find a split's features and captions.

    Raises:
        UserError: they are not there yet, or the root is not a local folder.
    """
    extractor, _ = extractor_fingerprint(data.extractor)
    manifest = feature_manifest_path(extractor, data.dataset, data.split)
    captions = root.read_model(captions_receipt_path(data.dataset, data.split), Receipt)
    if captions is None:
        raise UserError(f"{data} has no captions under {root.uri}; run `unicoder-vl download` with the same parameters")
    if not root.exists(manifest):
        raise UserError(
            f"{data} has no finished features of this extractor ({extractor[:12]}) under {root.uri}; "
            "run `unicoder-vl extract` with the same parameters"
        )
    return ResolvedData(
        source=FeatureSource(
            features_path=str(root.local(features_folder(extractor, data.dataset, data.split), "training")),
            captions_path=str(root.local(captions_path(data.dataset, data.split), "training")),
            name=str(data),
        ),
        identity={
            "features": hashlib.sha256(root.read_bytes(manifest)).hexdigest(),
            "captions": captions.content_digest(),
        },
    )


def pretraining_run(root: Root, spec: PretrainSpec) -> str:
    """Name of the run that these parameters and this data make, whether or not it was made.

    Raises:
        UserError: features, captions or the vocabulary are missing.
    """
    return _run_name(
        Stage.PRETRAIN,
        {
            "encoder": spec.encoder.model_dump(mode="json"),
            "pretrain": _loop_identity(spec.pretrain),
            "train": resolve_data(root, spec.data).identity,
            "vocabulary": _file_sha256(spec.vocabulary_path),
        },
    )


def finetuning_run(root: Root, spec: FinetuneSpec) -> str:
    """The same for finetuning.

    Raises:
        UserError: as `pretraining_run`; or the pretraining run that it starts from is not complete.
    """
    pretrained = None if spec.pretraining is None else find_pretrained(root, spec.pretraining)
    return _run_name(
        Stage.FINETUNE,
        {
            "encoder": spec.encoder.model_dump(mode="json"),
            "finetune": _loop_identity(spec.finetune),
            "train": resolve_data(root, spec.data).identity,
            "vocabulary": _file_sha256(spec.vocabulary_path),
            "start": None if pretrained is None else pretrained.fingerprint,
        },
    )


def check_vocabulary(path: str) -> None:
    """Raise UserError unless the word-piece vocabulary can be read."""
    _file_sha256(path)


def find_pretrained(root: Root, spec: PretrainSpec) -> CheckpointRef:
    """The complete pretraining run of these parameters.

    Raises:
        UserError: there is none.
    """
    run = pretraining_run(root, spec)
    return _required(root, run, Stage.PRETRAIN, "unicoder-vl pretrain")


def find_finetuned(root: Root, spec: FinetuneSpec) -> CheckpointRef:
    """The complete finetuning run of these parameters.

    Raises:
        UserError: there is none.
    """
    run = finetuning_run(root, spec)
    setting = "task-specific" if spec.pretraining is None else "pretrain+finetune"
    return _required(root, run, Stage.FINETUNE, f"unicoder-vl finetune --setting {setting}")


def pretrain(root: Root, spec: PretrainSpec, on_progress: OnProgress) -> CheckpointRef:
    """Run pretraining to its end, or find it done. Killed, it resumes from its newest checkpoint next time.

    Raises:
        UserError: an input is missing or unfit.
        StageError: training failed; the message names its log.
    """
    run = pretraining_run(root, spec)
    done = finished_run(root, run, Stage.PRETRAIN)
    if done is not None:
        return done.model_copy(update={"skipped": True})
    job = PretrainJob(
        run_path=str(root.local(run_folder(run), "training")),
        train=resolve_data(root, spec.data).source,
        vocabulary_path=spec.vocabulary_path,
        encoder=spec.encoder,
        pretrain=spec.pretrain,
    )
    return _train(root, run, Stage.PRETRAIN, "model.pretrain", job, on_progress)


def finetune(root: Root, spec: FinetuneSpec, on_progress: OnProgress) -> CheckpointRef:
    """Run finetuning, or task-specific training, to its end, or find it done.

    Raises:
        UserError: an input is missing or unfit; the pretraining run that it starts from is not complete.
        StageError: training failed; the message names its log.
    """
    run = finetuning_run(root, spec)
    done = finished_run(root, run, Stage.FINETUNE)
    if done is not None:
        return done.model_copy(update={"skipped": True})
    validates = spec.validation is not None and spec.finetune.validation_steps is not None
    job = FinetuneJob(
        run_path=str(root.local(run_folder(run), "training")),
        train=resolve_data(root, spec.data).source,
        validation=resolve_data(root, spec.validation).source if validates and spec.validation else None,
        vocabulary_path=spec.vocabulary_path,
        encoder=spec.encoder,
        finetune=spec.finetune,
        scoring=spec.scoring,
        checkpoint_path=None if spec.pretraining is None else find_pretrained(root, spec.pretraining).uri,
    )
    return _train(root, run, Stage.FINETUNE, "model.finetune", job, on_progress)


def _train(
    root: Root, run: str, stage: Stage, module: str, job: PretrainJob | FinetuneJob, on_progress: OnProgress
) -> CheckpointRef:
    folder = Path(job.run_path)
    run_module(module, job, folder / "job.json", folder / "log.txt", on_progress)
    done = finished_run(root, run, stage)
    if done is None:
        raise StageError(f"{module} ended well but left no final checkpoint in {folder}; see {folder / 'log.txt'}")
    return done


def finished_run(root: Root, run: str, stage: Stage) -> CheckpointRef | None:
    """The final checkpoint of a run, or None while the run is not complete or its checkpoint is gone."""
    folder = run_folder(run)
    final = root.read_model(f"{folder}/final.json", FinalRecord)
    if final is None or not root.exists(f"{folder}/{final.checkpoint}/model.safetensors"):
        return None
    return CheckpointRef(
        run=run,
        stage=stage,
        uri=root.path(f"{folder}/{final.checkpoint}"),
        step=final.step,
        fingerprint=final.weights_sha256,
    )


def _required(root: Root, run: str, stage: Stage, command: str) -> CheckpointRef:
    done = finished_run(root, run, stage)
    if done is None:
        raise UserError(f"{root.path(run_folder(run))} is not a complete run; run `{command}` with the same parameters")
    return done


def _run_name(stage: Stage, identity: dict[str, Any]) -> str:
    digest = fingerprint({"format": RUN_FORMAT, "stage": stage.value, **identity})
    return f"{stage.value}-{digest[:12]}"


def _loop_identity(config: LoopConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT)


def _file_sha256(path: str) -> str:
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"vocabulary {path} cannot be read ({error.strerror}); set vocabulary_path") from error
