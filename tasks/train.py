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
    LoaderConfig,
    LoopConfig,
    PretrainConfig,
    PretrainJob,
    ScoringConfig,
)
from model.progress import Progress
from tasks.digests import file_sha256
from tasks.errors import StageError, UserError
from tasks.extractor import extractor_fingerprint
from tasks.gpus import visible_gpus
from tasks.launch import run_module
from tasks.records import CheckpointRef, Receipt, Stage, fingerprint
from tasks.storage import (
    CACHE,
    Root,
    captions_path,
    captions_receipt_path,
    feature_manifest_path,
    features_folder,
    run_folder,
)

_RUN_FORMATS = {Stage.PRETRAIN: "run/2", Stage.FINETUNE: "run/3"}
"""Another one where the same parameters make other weights than before, so that a run of the older kind is no match."""
_BERT_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class DataSpec:
    """One split, seen through one extractor, and how it is read."""

    dataset: str
    split: str
    extractor: ExtractorConfig
    loader: LoaderConfig = field(default_factory=LoaderConfig)

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}"


@dataclass(frozen=True)
class PretrainSpec:
    """What a pretraining run is."""

    data: DataSpec
    vocabulary_path: str
    encoder: EncoderConfig
    pretrain: PretrainConfig
    validation: DataSpec | None = None
    scoring: ScoringConfig = field(default_factory=ScoringConfig)


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
    return resolve_features(root, data.dataset, data.split, extractor, data.loader)


def resolve_features(root: Root, dataset: str, split: str, extractor: str, loader: LoaderConfig) -> ResolvedData:
    """The same for an extractor that is known by its fingerprint."""
    name = f"{dataset}/{split}"
    manifest = feature_manifest_path(extractor, dataset, split)
    captions = root.read_model(captions_receipt_path(dataset, split), Receipt)
    if captions is None:
        raise UserError(f"{name} has no captions under {root.uri}; run `unicoder-vl download` with the same parameters")
    if not root.exists(manifest):
        raise UserError(
            f"{name} has no finished features of this extractor ({extractor[:12]}) under {root.uri}; "
            "run `unicoder-vl extract` with the same parameters"
        )
    return ResolvedData(
        source=FeatureSource(
            features_path=str(root.local(features_folder(extractor, dataset, split), "training")),
            captions_path=str(root.local(captions_path(dataset, split), "training")),
            cache_path=str(root.local(CACHE, "training")),
            name=name,
            loader=loader,
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
            "encoder": _encoder_identity(spec.encoder),
            "pretrain": _loop_identity(root, spec.pretrain, spec.validation),
            "train": resolve_data(root, spec.data).identity,
            "vocabulary": file_sha256(spec.vocabulary_path, "vocabulary_path"),
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
            "encoder": _encoder_identity(spec.encoder),
            "finetune": _loop_identity(root, spec.finetune, spec.validation),
            "train": resolve_data(root, spec.data).identity,
            "vocabulary": file_sha256(spec.vocabulary_path, "vocabulary_path"),
            "start": None if pretrained is None else pretrained.fingerprint,
        },
    )


def check_text_side(vocabulary_path: str, encoder: EncoderConfig) -> None:
    """Raise UserError unless the word-piece vocabulary, and the BERT to start from if it is local, can be read."""
    file_sha256(vocabulary_path, "vocabulary_path")
    _encoder_identity(encoder)


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
        validation=_validation_source(root, spec.validation, spec.pretrain),
        vocabulary_path=spec.vocabulary_path,
        encoder=spec.encoder,
        pretrain=spec.pretrain,
        scoring=spec.scoring,
    )
    return _train(root, run, Stage.PRETRAIN, "model.pretrain", job, spec.pretrain, on_progress)


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
    job = FinetuneJob(
        run_path=str(root.local(run_folder(run), "training")),
        train=resolve_data(root, spec.data).source,
        validation=_validation_source(root, spec.validation, spec.finetune),
        vocabulary_path=spec.vocabulary_path,
        encoder=spec.encoder,
        finetune=spec.finetune,
        scoring=spec.scoring,
        checkpoint_path=None if spec.pretraining is None else find_pretrained(root, spec.pretraining).uri,
    )
    return _train(root, run, Stage.FINETUNE, "model.finetune", job, spec.finetune, on_progress)


def _validation_source(root: Root, data: DataSpec | None, config: LoopConfig) -> FeatureSource | None:
    """Where the held-out data lies, if the run looks at any."""
    return None if data is None or config.validation_steps is None else resolve_data(root, data).source


def _train(
    root: Root,
    run: str,
    stage: Stage,
    module: str,
    job: PretrainJob | FinetuneJob,
    config: LoopConfig,
    on_progress: OnProgress,
) -> CheckpointRef:
    folder = Path(job.run_path)
    processes = num_processes(config)
    run_module(module, job, folder / "job.json", folder / "log.txt", on_progress, num_processes=processes)
    done = finished_run(root, run, stage)
    if done is None:
        raise StageError(f"{module} ended well but left no final checkpoint in {folder}; see {folder / 'log.txt'}")
    return done


def num_processes(config: LoopConfig | ScoringConfig) -> int:
    """Processes of this machine that train, or score, together: a GPU each, unless the config says how many."""
    if config.num_processes is not None:
        return config.num_processes
    return max(1, visible_gpus()) if config.device in ("auto", "cuda") else 1


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
    digest = fingerprint({"format": _RUN_FORMATS[stage], "stage": stage.value, **identity})
    return f"{stage.value}-{digest[:12]}"


def _loop_identity(root: Root, config: LoopConfig, validation: DataSpec | None) -> dict[str, Any]:
    """What a run's result depends on: validation, too, where it chooses the checkpoint that is the result."""
    identity = config.identity()
    if config.keep_best is not None:
        identity["result"] = {
            "keep_best": config.keep_best,
            "best_is": config.best_is,
            "validation_steps": config.validation_steps,
            "validation": None if validation is None else resolve_data(root, validation).identity,
        }
        if isinstance(config, FinetuneConfig) and config.validation_images is not None:
            identity["result"]["validation_images"] = config.validation_images
    return identity


def _encoder_identity(encoder: EncoderConfig) -> dict[str, Any]:
    return encoder.identity() | {"bert": None if encoder.bert is None else _bert_identity(encoder.bert)}


def _bert_identity(source: str) -> str:
    """Sha256 of a local BERT's weights; a name on the hub is taken for what it names."""
    if not Path(source).is_dir():
        return source
    for name in _BERT_WEIGHTS:
        if (Path(source) / name).is_file():
            return file_sha256(f"{source}/{name}", "encoder.bert")
    raise UserError(f"encoder.bert: {source} has neither {' nor '.join(_BERT_WEIGHTS)}; put BERT's weights there")
