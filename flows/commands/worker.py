"""The command `worker`: runs deployments, and can be stopped without loss."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from flows.commands.shared import exit_codes
from flows.operate.server import configured_api_url, wait_for_server
from flows.operate.worker import run_worker
from tasks.errors import UserError


def add_commands(app: typer.Typer) -> None:
    """Add `worker` to a command line."""
    app.command("worker")(worker)


def worker(
    pool: Annotated[str, typer.Option("--pool", help="Work pool whose runs are taken.")] = "unicoder-vl",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Runs at once; 1 where each is to have the machine's GPUs.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What it is called on Prefect's page.")] = None,
    with_healthcheck: Annotated[
        bool,
        typer.Option("--with-healthcheck", help="Answer /health on PREFECT_WORKER_WEBSERVER_PORT, on loopback."),
    ] = False,
) -> None:
    """Run deployments, as `prefect worker start` does, and stop without loss.

    On SIGTERM or Ctrl-C its runs are asked to end first: training writes its checkpoint, and each run is marked as
    crashed at once, so that the next one can begin. A second signal kills them.
    """
    with exit_codes():
        if configured_api_url() is None:
            raise UserError(
                "no Prefect server is named; start one with `prefect server start`, export "
                "PREFECT_API_URL=http://127.0.0.1:4200/api, and run this again"
            )
        wait_for_server("start it with `prefect server start`")
        arguments = ["--pool", pool]
        arguments += [] if limit is None else ["--limit", str(limit)]
        arguments += [] if name is None else ["--name", name]
        if with_healthcheck:
            arguments.append("--with-healthcheck")
            os.environ.setdefault("PREFECT_WORKER_WEBSERVER_HOST", "127.0.0.1")  # Prefect's own is every interface.
        status = run_worker(arguments)
    raise typer.Exit(status)
