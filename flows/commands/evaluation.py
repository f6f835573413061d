"""The commands `evaluate` and `history`: a checkpoint to what it measures, and how that moved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, get_args

import typer

from flows.commands.run_stage import run_stage
from flows.commands.shared import Json, Params, Recipe, Seed, exit_codes
from flows.commands.shared import Root as RootOption
from flows.params import checks
from flows.params.changes import with_settings
from flows.params.evaluation import EvaluateParams
from flows.params.training import Setting
from flows.results import EvaluationResult
from flows.views.history_text import HistoryFilter, history_text, read_series
from tasks.errors import UserError
from tasks.reports.measure_table import table_text
from tasks.storage.root import Root
from tasks.training import runs
from tasks.training.runs import CheckpointChoice

_DEFAULT_SETTING = "pretrain+finetune"


def add_commands(app: typer.Typer) -> None:
    """Add `evaluate` and `history` to a command line."""
    app.command("evaluate")(evaluate)
    app.command("history")(history)


def evaluate(
    root: RootOption = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Name of a run under ROOT/runs, or its beginning; needs no recipe."),
    ] = None,
    on: Annotated[str | None, typer.Option("--on", help="With --run: DATASET/SPLIT that is scored.")] = None,
    recipe: Recipe = None,
    params: Params = None,
    seed: Seed = None,
    setting: Annotated[
        str | None,
        typer.Option(
            "--setting",
            help="With --recipe or --params, which run: zero-shot, task-specific or pretrain+finetune.",
            show_default=_DEFAULT_SETTING,
        ),
    ] = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint", help="result: that of a complete run; newest: of a run under way, too; or a step."
        ),
    ] = "result",
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="Fail where mean recall (recall sum / 6) is more than this below the best earlier evaluation of the "
            "same setting, data and protocol: .02 is two percentage points.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting of scoring, such as protocols=all,folds:1000 or batch_size=512, "
            "or a parameter by its dotted name; may be repeated.",
        ),
    ] = None,
    positives: Annotated[
        list[str] | None,
        typer.Option(
            "--positives",
            help="Measure by another ground truth, too: NAME_image_to_caption.json of ECCV Caption or CxC, with "
            "NAME_caption_to_image.json beside it; may be repeated.",
        ),
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(
            "--ids",
            help="With --positives: the file of captions whose ids it uses, where it has moved since the download.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure a checkpoint's recall both ways, and add a row to the history.

    Scores that are there are not made again.
    """
    with exit_codes():
        choice = runs.checkpoint_choice(checkpoint)
        if run is not None:
            _refuse("--run", {"--recipe": recipe, "--params": params, "--seed": seed, "--setting": setting})
            chosen = named_params(root or "data", run, on, choice)
        else:
            chosen = _described_params(root, recipe, params, seed, setting or _DEFAULT_SETTING)
            _refuse("--recipe or --params", {"--on": on})
        content = chosen.model_dump() | {"checkpoint": choice, "max_drop": max_drop}
        content |= {"positives": positives or [], "positives_ids": ids}
        if ids is not None and not positives:
            raise UserError("--ids gives ids to the files of --positives, and there are none; name them")
        loaded = with_settings(EvaluateParams.model_validate(content), set_ or [], "scoring")
        checks.check_evaluate(loaded)
        result: EvaluationResult = run_stage("evaluate", loaded)
        print(result.model_dump_json() if json else evaluation_text(result))


def history(
    root: RootOption = None,
    run: Annotated[str | None, typer.Option("--run", help="Of this run only, or of those that begin so.")] = None,
    on: Annotated[str | None, typer.Option("--on", help="On this DATASET/SPLIT only.")] = None,
    setting: Annotated[
        str | None, typer.Option("--setting", help="Of this setting only: zero-shot, task-specific, pretrain+finetune.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Of this task only: retrieval.")] = None,
    last: Annotated[
        int | None, typer.Option("--last", min=1, help="List the newest so many of each kind; trends have them all.")
    ] = None,
    json: Json = False,
) -> None:
    """How measures moved: every evaluation under the root beside the earlier ones that it can be compared with."""
    with exit_codes():
        result = read_series(Root(root or "data"), HistoryFilter(task=task, run=run, on=on, setting=setting, last=last))
        print(result.model_dump_json() if json else history_text(result))


def evaluation_text(result: EvaluationResult) -> str:
    """A table for each protocol, the main one's first; the comparison with earlier evaluations; and the page."""
    parts = [table_text(table) for table in result.tables()]
    parts += ["\n".join(filter(None, [table_text(table), note])) for table, note in result.other_tables()]
    state = "scored before; " if result.skipped else ""
    page = result.report_path or f"none, {result.no_report}"
    return "\n\n".join([*parts, f"{state}{result.comparison}\nreport: {page}"])


def _refuse(beside: str, others: dict[str, object]) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise UserError(
            f"{', '.join(given)} cannot be given with {beside}; leave {'it' if len(given) == 1 else 'them'} out"
        )


def named_params(root: str, run: str, on: str | None, choice: CheckpointChoice) -> EvaluateParams:
    under = Root(root)
    named = runs.find_run(under, run)
    if re.fullmatch(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+", on or "") is None:
        extractor = runs.checkpoint_extractor(under, runs.choose_checkpoint(under, named, choice))
        known = ", ".join(runs.features_on(under, extractor)) or "none; run `unicoder-vl extract`"
        wrong = "" if on is None else f"--on {on!r} is not DATASET/SPLIT; "
        raise UserError(f"{wrong}name what is scored with --on; there are features for {named.name} of {known}")
    dataset, _, split = (on or "").partition("/")
    return EvaluateParams(root_uri=root, run=named.name, dataset=dataset, split=split)


def _described_params(
    root: str | None, recipe: str | None, params: Path | None, seed: int | None, setting: str
) -> EvaluateParams:
    if recipe is None and params is None:
        known = runs.run_names(Root(root or "data"))
        there = f" (there are {', '.join(known)})" if known else ""
        raise UserError(f"name what is scored: --run RUN{there} and --on DATASET/SPLIT, or --recipe, or --params")
    loaded = checks.load_params(recipe, params, root)
    loaded = loaded if seed is None else loaded.with_seed(seed)
    return loaded.for_evaluate(checks.check_setting(setting, loaded, get_args(Setting)))
