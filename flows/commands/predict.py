"""The command `predict`: a run's answers to a task's examples."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from flows.commands.evaluation import named_params
from flows.commands.shared import Root as RootOption
from flows.commands.shared import exit_codes
from flows.params.evaluated_run import task_prediction
from flows.views.progress import ProgressLog
from tasks.evaluation.predict import predict as predict_examples
from tasks.storage.root import Root
from tasks.training.runs import checkpoint_choice
from tasks.workers.launch import stopping_children

log = logging.getLogger("flows.predict")


def predict(
    run: Annotated[str, typer.Option("--run", help="Name of a task's run under ROOT/runs, or its beginning.")],
    on: Annotated[str, typer.Option("--on", help="DATASET/SPLIT whose examples are answered.")],
    root: RootOption = None,
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint", help="result: that of a complete run; newest: of a run under way, too; or a step."
        ),
    ] = "result",
) -> None:
    """Answer a task's examples, with targets or without, by a finetuned run; print where the predictions are."""
    with exit_codes():
        under, choice = Root(root or "data"), checkpoint_choice(checkpoint)
        params = named_params(under.uri, run, on, choice).model_copy(update={"checkpoint": choice})
        spec = task_prediction(under, params)
        under.check_writable()
        with stopping_children():
            done = predict_examples(under, spec, ProgressLog(log, spec.run.name, "examples").follow)
        print(f"predictions: {done.path}" + (" (made before)" if done.skipped else ""))


def add_commands(app: typer.Typer) -> None:
    app.command("predict")(predict)
