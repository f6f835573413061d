"""Checkpoints of published programs: made a run that every command takes, and written for those programs.

    ROOT/runs/NAME/job.json    says what was imported; checkpoints/step-0000000 and final.json are as of any run

Torch and the model are imported where weights are read.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import Field, TypeAdapter, ValidationError

from feature_extraction.weight_files import WeightsError, read_weights
from model.errors import InputError, TrainingError
from tasks.config import Name
from tasks.errors import StageError, UserError
from tasks.extractor import ExtractorRecord
from tasks.features.feature_sets import FEATURES
from tasks.records import CheckpointRef, Record, Stage
from tasks.storage.digests import weights_sha256
from tasks.storage.local_copy import local_checkpoint
from tasks.storage.locks import alone
from tasks.storage.mirror import RUN, mirrored
from tasks.storage.paths import extractor_path, run_folder
from tasks.storage.root import Root
from tasks.training.run_name import finished_run
from tasks.training.runs import CheckpointChoice, choose_checkpoint, find_run

if TYPE_CHECKING:
    from torch import Tensor

    from model.families.model import VisionLanguageModel

WITH_PROGRAM = {"uniter": "model.families.uniter_names", "vl-bert": "model.families.vl_bert_names"}
"""Families whose published program's checkpoints are read and written, and what does so."""


class Imported(Record):
    """Where the weights of a run come from."""

    family: str
    file: str = Field(description="name of the file, without its folder")
    sha256: str = Field(description="of the file")
    vocabulary: str = Field(description="digest of the word pieces and of the rules that cut captions")
    extractor: str = Field(description="fingerprint of the extractor whose features it reads")
    max_regions: int = Field(description="best-scored regions read of an image")


class _Loop(Record):
    seed: int = 0
    start: str = "pretrained"


class ImportedJob(Record):
    """job.json of an imported run. Like that of a trained one it says by a field of which stage it is."""

    imported: Imported
    pretrain: _Loop | None = None
    finetune: _Loop | None = None


def import_checkpoint(
    root: Root,
    file: Path,
    name: str,
    family: str,
    vocabulary_path: str,
    features: str | None = None,
    max_regions: int | None = None,
    num_heads: int | None = None,
) -> CheckpointRef:
    """Make a complete run of a published program's weights, unless it was made before.

    Args:
        file: weights, as torch or safetensors wrote them.
        name: of the run.
        vocabulary_path: word pieces, as everywhere.
        features: the folder under ROOT/features of the features that the weights read. None: the only one.
        max_regions: best-scored regions read of an image. None: as the family has it.
        num_heads: of attention; None: as of the published sizes.

    Raises:
        UserError: file, vocabulary or features are not there or do not fit each other; a run of that name is another.
        StageError: the run could not be written.
    """
    program = _program(family)
    _check_name(name)
    extractor = _extractor(root, features)
    sha256 = weights_sha256(str(file), "checkpoint")
    with alone(root, name, f"importing {name}"):
        try:
            return _import_alone(program, root, file, name, vocabulary_path, extractor, sha256, max_regions, num_heads)
        except (InputError, WeightsError) as error:
            raise UserError(f"{file} {error}" if isinstance(error, WeightsError) else str(error)) from error
        except TrainingError as error:
            raise StageError(str(error)) from error


def _import_alone(
    program: ModuleType,
    root: Root,
    file: Path,
    name: str,
    vocabulary_path: str,
    extractor: ExtractorRecord,
    sha256: str,
    max_regions: int | None,
    num_heads: int | None,
) -> CheckpointRef:
    from model.data.tokenizer import load_vocabulary
    from model.families.fit import check_vocabulary
    from model.training.checkpoint import Keep, State, finish_run, save_checkpoint, write_job

    vocabulary = load_vocabulary(vocabulary_path)
    model: VisionLanguageModel = program.official_model(
        read_weights(file),
        str(file),
        vocabulary.sep_id,
        extractor.fingerprint,
        num_heads=num_heads,
        num_labels=len(extractor.labels),
        max_regions=max_regions,
    )
    check_vocabulary(model, vocabulary, str(file))
    if model.feature_dim != extractor.feature_dim:
        raise UserError(
            f"{file} reads {model.feature_dim}-wide features, but those of {extractor.fingerprint[:12]} are "
            f"{extractor.feature_dim} wide; name the folder of the features that it was trained on with --features"
        )
    stage = Stage.FINETUNE if "matching" in model.heads else Stage.PRETRAIN
    imported = Imported(
        family=model.config.family,
        file=file.name,
        sha256=sha256,
        vocabulary=vocabulary.digest,
        extractor=extractor.fingerprint,
        max_regions=model.config.max_regions,
    )
    job = ImportedJob.model_validate({"imported": imported, stage.value: {}})
    if (before := _job_before(root, name)) is not None and before != job:
        raise UserError(
            f"{root.path(run_folder(name))} is a run of something else; give another --name, or remove that folder"
        )
    if (done := finished_run(root, name, stage)) is not None:
        return done.model_copy(update={"skipped": True})
    with mirrored(root, run_folder(name), RUN) as folder:
        write_job(folder, job)
        saved = save_checkpoint(folder, State(step=0), model, vocabulary.words, {}, Keep())
        finish_run(folder, saved, Keep())
    done = finished_run(root, name, stage)
    assert done is not None
    return done


def export_checkpoint(root: Root, run: str, choice: CheckpointChoice, target: Path) -> CheckpointRef:
    """Write a checkpoint's weights under the names of its family's published program.

    Args:
        run: its name, or how it begins.
        target: file to write: safetensors where its name ends so, else as torch.save writes it.

    Raises:
        UserError: there is no such run or checkpoint; its family has no such program; the file cannot be written.
    """
    found = find_run(root, run)
    checkpoint = choose_checkpoint(root, found, choice)
    from model.training.checkpoint import load_model

    try:
        model, _ = load_model(local_checkpoint(root, checkpoint))
        _write_weights(_program(model.config.family).to_official(model), target)
    except InputError as error:
        raise UserError(str(error)) from error
    return checkpoint


def _write_weights(weights: dict[str, Tensor], target: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from model.publish import part_of, publish

    try:
        if target.suffix == ".safetensors":
            save_file(weights, part_of(target))
        else:
            torch.save(weights, part_of(target))
        publish(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}); give another --out") from error


def _program(family: str) -> ModuleType:
    """The module that knows the names of weights in a family's published program."""
    if family not in WITH_PROGRAM:
        raise UserError(
            f"there is no published program of the family {family!r} whose checkpoints are known; known are "
            f"{', '.join(WITH_PROGRAM)}"
        )
    return import_module(WITH_PROGRAM[family])


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise UserError(f"--name: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def _extractor(root: Root, features: str | None) -> ExtractorRecord:
    """The extractor of a folder of features.

    Raises:
        UserError: there is none, or several and none was named.
    """
    folders = [name for name in root.names(FEATURES) if root.exists(extractor_path(name))]
    chosen = [name for name in folders if features is None or name.startswith(features[:12])]
    if len(chosen) != 1:
        there = f"there are {', '.join(folders)}" if folders else "there are none: run import-features or extract first"
        wanted = "choose one with --features" if features is None else f"{features!r} names {len(chosen)} of them"
        raise UserError(f"whose features under {root.path(FEATURES)} does it read? {wanted}; {there}")
    record = root.read_model(extractor_path(chosen[0]), ExtractorRecord)
    assert record is not None
    return record


def _job_before(root: Root, name: str) -> ImportedJob | None:
    """What a run of this name was made of; None where there is none.

    Raises:
        UserError: it is a run that was trained.
    """
    path = f"{run_folder(name)}/job.json"
    if not root.exists(path):
        return None
    try:
        return ImportedJob.model_validate_json(root.read_bytes(path))
    except ValidationError as error:
        raise UserError(f"{root.path(run_folder(name))} is a run that was trained; give another --name") from error
