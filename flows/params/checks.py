"""Checks of parameters that find bad input before Prefect is imported and before anything is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from flows.params.evaluated_run import answers_examples, evaluation_spec, task_prediction
from flows.params.evaluation import EvaluateParams
from flows.params.experiment import RebuildParams
from flows.params.recipes import RECIPES, recipe
from flows.params.shards import DownloadParams, ExtractParams
from flows.params.training import FinetuneParams, PretrainParams, Setting
from model.families.configs import FAMILIES
from tasks.download.settings import check_settings
from tasks.download.text import check_no_images, check_no_text, text_name
from tasks.errors import UserError
from tasks.evaluation.retrieval.ground_truth import check_ground_truths
from tasks.extractor import extractor_fingerprint
from tasks.made_from import check_no_order
from tasks.rows.manifest import manifest_receipt
from tasks.rows.read import check_rows
from tasks.rows.text_files import find_text_files
from tasks.storage.locks import check_free
from tasks.storage.logins import without_login
from tasks.storage.root import Root
from tasks.training.run_name import check_text_side, run_name
from tasks.workers.machines import NodesConfig


def load_params(recipe_name: str | None, params_path: Path | None, root_uri: str | None) -> RebuildParams:
    """Load the parameters that a command line names: a recipe's or a file's. --root overrides the file's.

    Raises:
        UserError: neither or both are named, the recipe is unknown, or the file is not such parameters.
    """
    known = ", ".join(sorted(RECIPES))
    if params_path is None and recipe_name is None:
        raise UserError(f"name what to run: --recipe NAME (known: {known}) or --params FILE.json")
    if params_path is not None and recipe_name is not None:
        raise UserError("--recipe and --params exclude each other; give one")
    if params_path is None:
        assert recipe_name is not None
        return recipe(recipe_name, root_uri or "data")
    params = read_params(params_path)
    return params if root_uri is None else params.with_root(root_uri)


def read_params(path: Path) -> RebuildParams:
    """Read parameters from a JSON file, as `unicoder-vl params` prints them.

    Raises:
        UserError: the file cannot be read, is not JSON, or a field of it is wrong; names the first such field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"params file {path} cannot be read ({error.strerror}); see `unicoder-vl params`") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); see `unicoder-vl params --recipe demo`") from error
    try:
        return RebuildParams.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path.name}: {validation_text(error, RebuildParams)}") from error


def validation_text(error: ValidationError, kind: type[BaseModel] | None = None) -> str:
    """The first problem, such as `pretrain.steps: Input should be greater than or equal to 1 (it is 0)`, and how many
    more.

    Args:
        error: what pydantic says.
        kind: the model that was to be read; then the message names the fields that there are.
    """
    problems = error.errors()
    first = problems[0]
    # The name of a family is no field: it says which config pydantic read.
    where = ".".join(str(part) for part in first["loc"] if part not in FAMILIES)
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = [] if kind is None else _fields_beside(kind, first["loc"])
        what = "there is no such field" + (f"; known are {', '.join(known)}" if known else "")
    elif first["type"] != "missing" and where and not isinstance(first["input"], dict | list):
        given = first["input"]
        what += f" (it is {(without_login(given) if isinstance(given, str) else given)!r})"
    more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{where}: {what}{more}" if where else f"{what}{more}"


def _fields_beside(kind: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The fields of the model in which pydantic met one that is none."""
    here = [kind]
    for part in loc[:-1]:
        if part in FAMILIES:
            here = [model for model in here if model.model_fields["family"].default == part]
            continue
        # Positions in lists, keys and members of unions are no fields: what they hold is of the kinds found before.
        fields = [model.model_fields[part] for model in here if isinstance(part, str) and part in model.model_fields]
        here = [model for field in fields for model in _models_in(field.annotation)] if fields else here
    return list(dict.fromkeys(name for model in here for name in model.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def check_download(params: DownloadParams) -> None:
    """Raise UserError unless the selected splits can be downloaded.

    Their rows can be read (where failures are tried again: there is a manifest), the settings are those that they
    were begun with, no features were imported for other pictures, no split has the name of a text, the files of text
    are there, and the root can be written.
    """
    root = Root(params.root_uri)
    for dataset, split in params.selected_splits():
        if params.retry is None:
            check_rows(dataset.rows_config(split), split, f"caption rows of {dataset.name}/{split}")
        else:
            manifest_receipt(root, dataset.name, split)
        if not params.accepts_changes:
            check_settings(root, dataset, split, params.download)
        check_no_order(root, dataset.name, split)
        check_no_text(root, dataset.name, split)
    for text, split in params.selected_texts():
        check_no_images(root, text.name, split)
        find_text_files(text.splits[split], text_name(text.name, split))
    root.check_writable()


def check_extract(params: RebuildParams | ExtractParams) -> None:
    """Raise UserError unless the extractor's files are there and the root can be written."""
    extractor_fingerprint(params.extractor)
    Root(params.root_uri).check_writable()


def check_downloaded(params: RebuildParams | ExtractParams) -> None:
    """Raise UserError unless every split has been downloaded at least as far as its manifest."""
    for dataset in params.datasets:
        for split in dataset.splits:
            manifest_receipt(Root(params.root_uri), dataset.name, split)


def check_rebuild(params: RebuildParams) -> None:
    """Raise UserError unless a whole experiment could begin."""
    extractor_fingerprint(params.extractor)
    check_text_side(params.vocabulary_path, params.encoder)
    check_download(params.for_download())


def check_pretrain(params: PretrainParams) -> None:
    """Raise UserError unless pretraining's inputs are there; StageError if another process trains this run."""
    root = Root(params.root_uri)
    _check_run(root, run_name(root, params.spec()), params.nodes)


def check_finetune(params: FinetuneParams) -> None:
    """Raise UserError unless finetuning's inputs are there, the pretrained checkpoint too; and as `check_pretrain`."""
    root = Root(params.root_uri)
    _check_run(root, run_name(root, params.spec()), params.nodes)


def _check_run(root: Root, run: str, nodes: NodesConfig | None) -> None:
    if nodes is None or nodes.node_rank == 0:  # The others train it with the first.
        check_free(root, run, f"training {run}")
    root.check_writable()


def check_setting(setting: str, params: RebuildParams, known: Sequence[str]) -> Setting:
    """The setting of this name.

    Raises:
        UserError: it is none of those known, or these parameters do not train for it.
    """
    if setting not in known:
        raise UserError(f"there is no setting {setting!r} here; known are {', '.join(known)}")
    if setting == "task-specific" and params.task_specific is None:
        raise UserError("these parameters have no task_specific training; set task_specific in the --params file")
    return cast(Setting, setting)


def check_evaluate(params: EvaluateParams) -> None:
    """Raise UserError unless the checkpoint and the features of the split are there."""
    root = Root(params.root_uri)
    if answers_examples(root, params):
        task_prediction(root, params)
        if params.positives:
            raise UserError("positives are another ground truth of retrieval; leave them out for a run of another task")
        root.check_writable()
        return
    evaluation_spec(root, params)
    check_ground_truths(root, params.dataset, params.split, params.positives, params.positives_ids)
    root.check_writable()
