"""The commands `import-checkpoint` and `export-checkpoint`: weights of published programs. They need no Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.experiment import print_result
from flows.commands.shared import Json, exit_codes
from flows.commands.shared import Root as RootOption
from model.config import VOCABULARY_PATH
from tasks.storage.root import Root
from tasks.training.published import export_checkpoint, import_checkpoint
from tasks.training.runs import checkpoint_choice


def add_commands(app: typer.Typer) -> None:
    """Add `import-checkpoint` and `export-checkpoint` to a command line."""
    app.command("import-checkpoint")(import_command)
    app.command("export-checkpoint")(export_command)


def import_command(
    file: Annotated[
        Path,
        typer.Argument(help="Weights as the program wrote them, such as uniter-base.pt or vl-bert-base-prec.model."),
    ],
    name: Annotated[str, typer.Option("--name", help="Of the run that is made, such as uniter-base.")],
    vocabulary: Annotated[str, typer.Option("--vocabulary", help=VOCABULARY_PATH[0].upper() + VOCABULARY_PATH[1:])],
    family: Annotated[str, typer.Option("--family", help="Whose program wrote them: uniter or vl-bert.")] = "uniter",
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            help="Folder under ROOT/features of the features that they read.",
            show_default="the only one",
        ),
    ] = None,
    max_regions: Annotated[
        int | None,
        typer.Option("--max-regions", min=1, help="Best-scored regions read of an image.", show_default="100"),
    ] = None,
    num_heads: Annotated[
        int | None,
        typer.Option("--num-heads", min=1, help="Of attention.", show_default="one for 64 of the hidden width"),
    ] = None,
    root: RootOption = None,
    json: Json = False,
) -> None:
    """Make a run of a published program's weights: evaluate, search and finetune --from take it by its name."""
    with exit_codes():
        made = import_checkpoint(Root(root or "data"), file, name, family, vocabulary, features, max_regions, num_heads)
        state = "was imported before" if made.skipped else "imported"
        print_result(made, f"{made.run}: {state}\ncheckpoint: {made.uri}", json)


def export_command(
    run: Annotated[str, typer.Argument(help="Name of a run under ROOT/runs, or its beginning.")],
    out: Annotated[
        Path, typer.Option("--out", help="File to write: safetensors where it ends in .safetensors, else torch's.")
    ],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="result: that of a complete run; newest; or a step.")
    ] = "result",
    root: RootOption = None,
    json: Json = False,
) -> None:
    """Write a checkpoint's weights under the names of its family's published program, tied ones twice."""
    with exit_codes():
        written = export_checkpoint(Root(root or "data"), run, checkpoint_choice(checkpoint), out)
        print_result(written, f"{written.run}, step {written.step}: {out}", json)
