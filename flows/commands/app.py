"""The command line's application."""

from __future__ import annotations

import typer

from flows.commands.later import Commands

app = typer.Typer(
    name="unicoder-vl",
    cls=Commands,
    help="Vision-language pretraining from caption/URL rows to a retrieval table. Every command resumes where the last "
    "one ended: what is finished is not done again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _application() -> None:
    """Give typer a callback; commands are added when they are asked for."""
