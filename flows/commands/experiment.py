"""Commands for a whole experiment: demo, rebuild, status, params."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from flows.commands.run_stage import run_stage
from flows.commands.shared import (
    Changed,
    Json,
    Params,
    Recipe,
    Root,
    Seed,
    exit_codes,
)
from flows.params import checks
from flows.params.changes import with_settings
from flows.params.experiment import RebuildParams
from flows.params.recipes import DEMOS, demo_recipe
from flows.results import RebuildResult
from flows.steps.world import rows_ready
from flows.views.progress import counts_text, duration
from flows.views.stage_texts import done_text, losses
from flows.views.status import read_download_status, read_status, status_text
from model.families.config import EncoderConfig
from tasks.records import Outcome
from tasks.reports.measure_table import table_text
from tasks.reports.retrieval.tables import retrieval_table

_DIGITS = (
    "digits: another processor's kernels round otherwise; with one seed, R@1 came out up to 3 points apart, other\n"
    "recalls up to 7, on two processors (docs/demo.md). On this one a second run prints the same."
)
"""Below the demo's table, which people hold against the README's."""
_DIGITS_OF_OTHERS = (
    "digits: another processor's kernels round otherwise (docs/demo.md). On this one a second run prints the same."
)
"""The same below the tables of families that ran on one processor alone."""


def demo(
    root: Root = None,
    family: Annotated[str, typer.Option("--family", help=f"Which encoder: {', '.join(DEMOS)}.")] = "unicoder-vl",
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Run every stage on a small drawn web, in minutes, without network or GPU.

    Families share pictures and regions under one root.
    """
    with exit_codes():
        _rebuild(load_experiment(demo_recipe(family), None, root, seed), json)
        if not json:
            print(_DIGITS if family == "unicoder-vl" else _DIGITS_OF_OTHERS)


def rebuild(
    root: Root = None,
    recipe: Recipe = None,
    params: Params = None,
    seed: Seed = None,
    set_: Changed = None,
    json: Json = False,
) -> None:
    """Run all stages: download, extract, pretrain, finetune, evaluate, report."""
    with exit_codes():
        _rebuild(load_experiment(recipe, params, root, seed, set_), json)


def status(
    root: Root = None, recipe: Recipe = None, params: Params = None, seed: Seed = None, json: Json = False
) -> None:
    """Show how far an experiment is, and the command that comes next. Changes nothing.

    With neither --recipe nor --params it tells how far what is downloaded under the root is.
    """
    with exit_codes():
        if recipe is None and params is None:
            found = read_download_status(root or "data")
            print_result(found, status_text(found), json)
            return
        loaded = load_experiment(recipe, params, root, seed)
        source = f"--recipe {recipe}" if params is None else f"--params {params}"
        options = f"{source} --root {loaded.root_uri}" + ("" if seed is None else f" --seed {seed}")
        found = read_status(loaded, options)
        print_result(found, status_text(found), json)


def print_params(
    root: Root = None, recipe: Recipe = None, params: Params = None, seed: Seed = None, set_: Changed = None
) -> None:
    """Print parameters as JSON, to be edited and given to --params."""
    with exit_codes():
        typer.echo(load_experiment(recipe, params, root, seed, set_).model_dump_json(indent=2))


def _rebuild(params: RebuildParams, json: bool) -> None:
    with rows_ready(params) as ready:
        checks.check_rebuild(ready)
        result: RebuildResult = run_stage("rebuild", ready)
    print_result(result, rebuild_text(result, ready.encoder), json)


def rebuild_text(result: RebuildResult, encoder: EncoderConfig) -> str:
    """The table, lost rows with reasons, skipped work, and the path of the report.

    The family is named but for the first one, whose tables of before name none.
    """
    lines = [] if encoder.family == "unicoder-vl" else [f"family: {encoder.family}", ""]
    lines += [table_text(retrieval_table(result.table)), ""]
    for name, counts in result.outcomes.items():
        rows, ok = sum(counts.values()), counts.get(Outcome.OK, 0)
        lost = {outcome: number for outcome, number in counts.items() if outcome != Outcome.OK}
        lines.append(f"{name}: {ok:,} of {rows:,} rows have an image; lost: {counts_text(lost)}")
    lines += [f"NOT ALL OF THE DATA: {loss}" for loss in losses(result.stages)]
    lines += [
        "",
        f"done now: {done_text(result.stages)} ({duration(result.seconds)})",
        f"done before, skipped: {done_text(result.stages, skipped=True)}",
        f"report: {result.report_path}",
    ]
    return "\n".join(lines)


def print_result(result: BaseModel, text: str, json: bool) -> None:
    print(result.model_dump_json() if json else text)


def load_experiment(
    recipe: str | None, params: Path | None, root: str | None, seed: int | None, settings: list[str] | None = None
) -> RebuildParams:
    loaded = checks.load_params(recipe, params, root)
    return with_settings(loaded if seed is None else loaded.with_seed(seed), settings or [])


def add_commands(app: typer.Typer) -> None:
    app.command("demo")(demo)
    app.command("rebuild")(rebuild)
    app.command("status")(status)
    app.command("params")(print_params)
