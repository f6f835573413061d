"""The command `sweep`: the papers' ablations, as variants of a recipe or of the user's own parameters."""

from __future__ import annotations

from typing import Annotated, cast, get_args

import typer

from flows.commands.experiment import load_experiment
from flows.commands.run_stage import run_stage
from flows.commands.shared import Changed, Json, Params, Recipe, Root, Seed, exit_codes
from flows.params import checks
from flows.params.experiment import RebuildParams
from flows.params.variants import Ablation, SweepParams
from flows.steps.world import rows_ready
from tasks.errors import UserError
from tasks.reports.sweeps import Sweep, VariantsFailedError, sweep_text


def add_commands(app: typer.Typer) -> None:
    """Add `sweep` to a command line."""
    app.command("sweep")(sweep)


def sweep(
    ablation: Annotated[str, typer.Argument(help="What is varied: layers, boxes, settings or objectives.")],
    root: Root = None,
    recipe: Recipe = None,
    params: Params = None,
    values: Annotated[
        str | None,
        typer.Option(
            "--values",
            help="Numbers of layers or boxes, names of settings, or objectives: 3,6,12 or mlm,mlm+itm.",
            show_default="the papers'; of a smaller model a quarter, half and all",
        ),
    ] = None,
    seed: Seed = None,
    set_: Changed = None,
    json: Json = False,
) -> None:
    """Run one experiment in variants side by side: encoder layers, boxes read of an image, settings, or objectives.

    Images and features are made once. A variant that was trained before, by a rebuild too, is not trained again.
    """
    with exit_codes():
        swept = sweep_params(ablation, values, load_experiment(recipe, params, root, seed, set_))
        with rows_ready(swept.base) as ready:
            checks.check_rebuild(ready)
            try:
                result: Sweep = run_stage("sweep", swept.model_copy(update={"base": ready}))
            except VariantsFailedError as error:
                _print(error.sweep, json)
                raise
        _print(result, json)


def sweep_params(ablation: str, values: str | None, base: RebuildParams) -> SweepParams:
    """Validated parameters of the command line.

    Raises:
        UserError: there is no such ablation.
        ValidationError: a value cannot be.
    """
    known = get_args(Ablation)
    if ablation not in known:
        raise UserError(f"there is no sweep of {ablation!r}; known are {', '.join(known)}")
    parts = None if values is None else tuple(part.strip() for part in values.split(","))
    numbers = None if parts is None else tuple(int(part) if part.isdecimal() else part for part in parts)
    return SweepParams(ablation=cast(Ablation, ablation), values=numbers, base=base)


def _print(result: Sweep, json: bool) -> None:
    print(result.model_dump_json() if json else f"{sweep_text(result)}\n\npage: {result.page_path}")
