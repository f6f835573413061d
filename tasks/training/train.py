"""Starts pretraining and finetuning, and finds runs again by their parameters.

A run's folder is named by the fingerprint of everything that its weights depend on: configs, the bytes of features,
captions and vocabulary, and for finetuning the weights it starts from. Paths, device, thread counts and how often it
logs do not enter. So the same parameters find the same run: complete, it is not run again; begun, it is resumed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from feature_extraction.identity import choice_of
from model.config import FeatureSource, LoopConfig
from model.data.word_pieces import is_hub_name, read_words, words_identity
from model.downstream.retrieval.config import ScoringConfig
from model.errors import InputError
from model.families.bert_folder import WEIGHTS as BERT_WEIGHTS
from model.families.bert_folder import check_bert
from model.families.config import EncoderConfig
from model.jobs import FinetuneJob, PretrainJob
from model.progress import Progress
from tasks.errors import StageError, UserError
from tasks.records import CheckpointRef, Stage, fingerprint
from tasks.storage.digests import file_sha256, weights_sha256
from tasks.storage.local_copy import keep_for_reading, local_checkpoint, local_copy, with_local_captions
from tasks.storage.locks import alone
from tasks.storage.mirror import RUN, mirrored
from tasks.storage.paths import run_folder
from tasks.storage.root import Root
from tasks.training.data import DataSpec, resolve_data
from tasks.training.specs import FinalRecord, FinetuneSpec, PretrainSpec
from tasks.workers.gpus import visible_gpus
from tasks.workers.launch import run_module
from tasks.workers.machines import NodesConfig
from tasks.workers.nodes import wait_for_first_node, wait_for_result

_RUN_FORMATS = {Stage.PRETRAIN: "run/2", Stage.FINETUNE: "run/3"}
"""Another one where the same parameters make other weights than before, so that a run of the older kind is no match."""
OnProgress = Callable[[Progress], None]
Job = PretrainJob | FinetuneJob


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
            "vocabulary": _vocabulary_identity(spec.vocabulary_path),
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
            "vocabulary": _vocabulary_identity(spec.vocabulary_path),
            "start": None if pretrained is None else pretrained.fingerprint,
        },
    )


def check_text_side(vocabulary_path: str, encoder: EncoderConfig) -> None:
    """Raise UserError unless vocabulary and BERT can be read, if they are local, and fit each other and the encoder."""
    _vocabulary_identity(vocabulary_path)
    _encoder_identity(encoder)
    if is_hub_name(vocabulary_path):
        return
    try:
        words = read_words(vocabulary_path)
        if encoder.bert is not None and Path(encoder.bert).is_dir():
            # How many layers it needs depends on the variant of a sweep; the training says if there are too few.
            check_bert(Path(encoder.bert), encoder.model_copy(update={"num_layers": 1}), words)
    except InputError as error:
        raise UserError(str(error)) from error


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


def pretrain(
    root: Root, spec: PretrainSpec, on_progress: OnProgress, nodes: NodesConfig | None = None
) -> CheckpointRef:
    """Run pretraining to its end, or find it done. Killed, it resumes from its newest checkpoint next time.

    Args:
        root: where everything lies.
        spec: what the run is.
        on_progress: called for every report.
        nodes: the machines that train it together, each by a call of its own; None: this one alone.

    Raises:
        UserError: an input is missing or unfit.
        StageError: training failed, and the message names its log; or another process trains this run just now.
    """

    def job(folder: Path) -> PretrainJob:
        return PretrainJob(
            run_path=str(folder),
            train=_local_source(root, spec.data),
            validation=_validation_source(root, spec.validation, spec.pretrain),
            vocabulary_path=spec.vocabulary_path,
            encoder=spec.encoder,
            pretrain=spec.pretrain,
            scoring=spec.scoring,
        )

    return _train(root, pretraining_run(root, spec), Stage.PRETRAIN, job, spec.pretrain, on_progress, nodes)


def finetune(
    root: Root, spec: FinetuneSpec, on_progress: OnProgress, nodes: NodesConfig | None = None
) -> CheckpointRef:
    """Run finetuning, or task-specific training, to its end, or find it done. Arguments are those of `pretrain`.

    Raises:
        UserError: an input is missing or unfit; the pretraining run that it starts from is not complete.
        StageError: as `pretrain`.
    """

    def job(folder: Path) -> FinetuneJob:
        start = None if spec.pretraining is None else find_pretrained(root, spec.pretraining)
        return FinetuneJob(
            run_path=str(folder),
            train=_local_source(root, spec.data),
            validation=_validation_source(root, spec.validation, spec.finetune),
            vocabulary_path=spec.vocabulary_path,
            encoder=spec.encoder,
            finetune=spec.finetune,
            scoring=spec.scoring,
            checkpoint_path=None if start is None else local_checkpoint(root, start),
        )

    return _train(root, finetuning_run(root, spec), Stage.FINETUNE, job, spec.finetune, on_progress, nodes)


def _local_source(root: Root, data: DataSpec) -> FeatureSource:
    return with_local_captions(root, resolve_data(root, data).source)


def _validation_source(root: Root, data: DataSpec | None, config: LoopConfig) -> FeatureSource | None:
    """Where the held-out data lies, if the run looks at any."""
    return None if data is None or config.validation_steps is None else _local_source(root, data)


def _train(
    root: Root,
    run: str,
    stage: Stage,
    make_job: Callable[[Path], Job],
    config: LoopConfig,
    on_progress: OnProgress,
    nodes: NodesConfig | None,
) -> CheckpointRef:
    def result() -> CheckpointRef | None:
        return finished_run(root, run, stage)

    node = 0 if nodes is None else nodes.node_rank
    # What the first node has put on the root by then is what all of them go on from.
    done = wait_for_first_node(nodes, result) if nodes is not None and node else result()
    if done is not None:
        return done.model_copy(update={"skipped": True})
    # Machines that train together write one run by the first of them.
    with nullcontext() if node else alone(root, run, f"training {run}"):
        return _train_alone(root, run, stage, make_job, config, on_progress, nodes)


def _train_alone(
    root: Root,
    run: str,
    stage: Stage,
    make_job: Callable[[Path], Job],
    config: LoopConfig,
    on_progress: OnProgress,
    nodes: NodesConfig | None,
) -> CheckpointRef:
    """Train a run that nobody else on this machine trains, unless somebody just has."""

    def result() -> CheckpointRef | None:
        return finished_run(root, run, stage)

    node = 0 if nodes is None else nodes.node_rank
    done = None if node else result()
    if done is not None:
        return done.model_copy(update={"skipped": True})
    # Under a local root the machines share the folder.
    module, own = f"model.{stage.value}", f"node-{node}-" if node else ""
    with mirrored(root, run_folder(run), RUN, node) as folder:
        log_path = folder / f"{own}log.txt"
        # It may have come to its end before, and only not have been uploaded.
        if finished_run(local_copy(root), run, stage) is None:
            processes = num_processes(config)
            run_module(
                module,
                make_job(folder),
                folder / f"{own}job.json",
                log_path,
                on_progress,
                num_processes=processes,
                nodes=nodes,
            )
    done = wait_for_result(nodes, root, result) if nodes is not None and node else result()
    if done is None:
        raise StageError(f"{module} ended well but left no final checkpoint in {folder}; see {log_path}")
    if not root.is_local:
        # The root has all of it. A copy of what may be removed there would bring it back.
        if not node:
            keep_for_reading(root, done, folder / "checkpoints" / Path(done.uri).name)
        shutil.rmtree(folder)
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
    if config.keep_best is None:
        return config.identity()
    held_out = None if validation is None else resolve_data(root, validation).identity
    return config.identity() | {"result": choice_of(config) | {"validation": held_out}}


def _encoder_identity(encoder: EncoderConfig) -> dict[str, Any]:
    return encoder.identity() | {"bert": None if encoder.bert is None else _bert_identity(encoder.bert)}


def _vocabulary_identity(source: str) -> Any:
    """Sha256 of a local vocabulary, with its rules where they are not those of all runs of before; a name on the hub
    is taken for what it names."""
    try:
        file, rules = words_identity(source)
    except InputError as error:
        raise UserError(f"vocabulary_path: {error}") from error
    pieces = file if isinstance(file, str) else file_sha256(str(file), "vocabulary_path")
    return {"pieces": pieces, "rules": rules} if rules else pieces


def _bert_identity(source: str) -> str:
    """Sha256 of a local BERT's weights; a name on the hub is taken for what it names."""
    if not Path(source).is_dir():
        return source
    for name in BERT_WEIGHTS:
        if (Path(source) / name).is_file():
            return weights_sha256(f"{source}/{name}", "encoder.bert")
    raise UserError(f"encoder.bert: {source} has neither {' nor '.join(BERT_WEIGHTS)}; put BERT's weights there")
