"""The name of a training run: the fingerprint of all that decides its result.

These are the configs, as the marks of their fields say (`feature_extraction.identity`); the bytes of features,
captions, text, vocabulary and BERT; and for finetuning the weights that it starts from. So the same parameters find
the same run: complete, it is not run again; begun, it is resumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feature_extraction.identity import choice_of
from model.data.word_pieces import is_hub_name, read_words, words_identity
from model.downstream.tasks import RETRIEVAL
from model.errors import InputError
from model.families.bert_folder import WEIGHTS as BERT_WEIGHTS
from model.families.bert_folder import check_bert
from model.families.config import EncoderConfig
from tasks.errors import UserError
from tasks.records import CheckpointRef, Stage, fingerprint
from tasks.storage.digests import file_sha256, weights_sha256
from tasks.storage.paths import run_folder
from tasks.storage.root import Root
from tasks.training.data import DataSpec, resolve_data, resolve_examples
from tasks.training.runs import choose_checkpoint, find_run
from tasks.training.specs import FinalRecord, FinetuneSpec, PretrainSpec, TrainSpec
from tasks.training.text import resolve_text

_RUN_FORMATS = {Stage.PRETRAIN: "run/2", Stage.FINETUNE: "run/3"}
"""Another one where the same parameters make other weights than before, so that a run of the older kind is no match."""


def run_name(root: Root, spec: TrainSpec) -> str:
    """Name the run that these parameters and this data make.

    It may be complete, begun or not begun.

    Raises:
        UserError: features, captions, text or the vocabulary are missing; or the run that it starts from is not
            complete.
    """
    own: dict[str, Any] = {}
    kind = spec.stage.value
    if isinstance(spec, FinetuneSpec):
        start = find_start(root, spec)
        own["start"] = None if start is None else start.fingerprint
        if spec.task != RETRIEVAL:
            kind, own["task"] = f"{kind}-{spec.task}", spec.task
    elif spec.text is not None:
        own["text"] = resolve_text(root, spec.text).identity
    digest = fingerprint(
        {
            "format": _RUN_FORMATS[spec.stage],
            "stage": spec.stage.value,
            "encoder": spec.encoder.identity() | {"bert": _bert_identity(spec.encoder.bert)},
            spec.stage.value: _loop_identity(root, spec),
            "train": _data_identity(root, spec),
            "vocabulary": _vocabulary_identity(spec.vocabulary_path),
            **own,
        }
    )
    return f"{kind}-{digest[:12]}"


def find_start(root: Root, spec: FinetuneSpec) -> CheckpointRef | None:
    """The checkpoint that finetuning starts from; None from scratch.

    Raises:
        UserError: its run is not there or not complete.
    """
    if spec.start_run is not None:
        return choose_checkpoint(root, find_run(root, spec.start_run), "result")
    return None if spec.pretraining is None else find_trained(root, spec.pretraining)


def find_trained(root: Root, spec: TrainSpec) -> CheckpointRef:
    """The complete run of these parameters.

    Raises:
        UserError: there is none.
    """
    run = run_name(root, spec)
    done = finished_run(root, run, spec.stage)
    if done is None:
        raise UserError(
            f"{root.path(run_folder(run))} is not a complete run; run `{spec.command}` with the same parameters"
        )
    return done


def finished_run(root: Root, run: str, stage: Stage) -> CheckpointRef | None:
    """The final checkpoint of a run; None while it is not complete, or once it is gone."""
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


def check_text_side(vocabulary_path: str, encoder: EncoderConfig) -> None:
    """Raise UserError unless vocabulary, BERT and encoder fit each other.

    What is on the hub is not looked at.
    """
    _vocabulary_identity(vocabulary_path)
    _bert_identity(encoder.bert)
    if is_hub_name(vocabulary_path):
        return
    try:
        words = read_words(vocabulary_path)
        if encoder.bert is not None and Path(encoder.bert).is_dir():
            # How many layers it needs depends on the variant of a sweep; the training says if there are too few.
            check_bert(Path(encoder.bert), encoder.model_copy(update={"num_layers": 1}), words)
    except InputError as error:
        raise UserError(str(error)) from error


def _data_identity(root: Root, spec: TrainSpec) -> dict[str, Any]:
    """Digests of what is learnt from; of several corpora by their names."""
    if isinstance(spec, PretrainSpec) and spec.also:
        return {str(data): resolve_data(root, data).identity for data in (spec.data, *spec.also)}
    return _split_identity(root, spec, spec.data)


def _split_identity(root: Root, spec: TrainSpec, data: DataSpec) -> dict[str, str]:
    """Digests of a split as the run reads it: with its captions, or with a task's examples."""
    found = resolve_data(root, data)
    if isinstance(spec, FinetuneSpec) and spec.task != RETRIEVAL:
        return resolve_examples(root, found, spec.task).identity
    return found.identity


def _loop_identity(root: Root, spec: TrainSpec) -> dict[str, Any]:
    """The part of the loop; with validation, where that chooses the checkpoint."""
    config, validation = spec.loop, spec.validation
    if config.keep_best is None:
        return config.identity()
    held_out = None if validation is None else _split_identity(root, spec, validation)
    return config.identity() | {"result": choice_of(config) | {"validation": held_out}}


def _vocabulary_identity(source: str) -> Any:
    """Sha256 of a local vocabulary, with its rules where they are not those of all runs of before.

    A name on the hub is taken for what it names.
    """
    try:
        file, rules = words_identity(source)
    except InputError as error:
        raise UserError(f"vocabulary_path: {error}") from error
    pieces = file if isinstance(file, str) else file_sha256(str(file), "vocabulary_path")
    return {"pieces": pieces, "rules": rules} if rules else pieces


def _bert_identity(source: str | None) -> str | None:
    """Sha256 of a local BERT's weights; a name on the hub is taken for what it names."""
    if source is None or not Path(source).is_dir():
        return source
    for name in BERT_WEIGHTS:
        if (Path(source) / name).is_file():
            return weights_sha256(f"{source}/{name}", "encoder.bert")
    raise UserError(f"encoder.bert: {source} has neither {' nor '.join(BERT_WEIGHTS)}; put BERT's weights there")
