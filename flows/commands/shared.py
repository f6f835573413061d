"""Parts that all commands share: options, exit codes for errors, and an orderly end on a signal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from flows.commands.interrupts import GOES_ON, Interrupted, ends_in_order
from flows.params import checks
from flows.params.recipes import RECIPES
from flows.views.terminal import log_to_stderr
from tasks.errors import StageError, UserError, disk_full_text, is_disk_full

_RECIPE_HELP = f"Named parameters: {', '.join(sorted(RECIPES))}."
Root = Annotated[
    str | None,
    typer.Option("--root", help="Folder or fsspec URI for everything that is made.", show_default="data"),
]
Recipe = Annotated[str | None, typer.Option("--recipe", help=_RECIPE_HELP)]
Params = Annotated[
    Path | None, typer.Option("--params", help="JSON file of parameters; `unicoder-vl params` prints one to edit.")
]
MOST_SEED = 2**63 - 1
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, max=MOST_SEED, help="Seed of every training run; data stays as it is."),
]
Changed = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change one parameter by its dotted name, such as pretrain.steps=1000; may be repeated."
    ),
]
MaxFailedShare = Annotated[
    float | None,
    typer.Option(
        "--max-failed-share",
        help="Share of each split's shards that may fail, such as 0.02: captions and features go on without them.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Workers on a Ray cluster: auto for the one that this machine has joined, HOST:PORT, or local; or JSON "
        'such as {"address": "auto", "gpus_each": 0.5}.',
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line of stdout.")]

Nnodes = Annotated[int, typer.Option("--nnodes", min=1, help="Machines that train together; options as of torchrun.")]
NodeRank = Annotated[
    int | None, typer.Option("--node-rank", min=0, help="With --nnodes: which one this is; 0 writes the run.")
]
MasterAddr = Annotated[str | None, typer.Option("--master-addr", help="With --nnodes: host name or address of node 0.")]
MasterPort = Annotated[
    int, typer.Option("--master-port", min=1, max=65535, help="With --nnodes: a free port of node 0.")
]


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn an error or a signal into an exit code.

    Where the message says it all, it is one line on stderr.
    """
    log_to_stderr()
    try:
        with ends_in_order():
            yield
    except UserError as error:
        _end(str(error), 2)
    except ValidationError as error:
        _end(f"params: {checks.validation_text(error)}", 2)
    except StageError as error:
        _end(str(error), 1)
    except OSError as error:
        if not is_disk_full(error):
            raise
        _end(disk_full_text(error), 1)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        _end(GOES_ON, 128 + number)


def _end(message: str, code: int) -> NoReturn:
    if sys.stderr is not None:
        with suppress(OSError):  # Nobody may read any more.
            typer.echo(message, err=True)
    raise typer.Exit(code)
