"""The command `setup`: prepares a Prefect server for `prefect deployment run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter

from flows.commands.shared import Json, exit_codes
from flows.operate.deployments import ProjectSpec, home_folder, project_file, read_project
from flows.operate.server import configured_api_url, use_server, wait_for_server
from flows.results import Made
from tasks.errors import UserError


def add_commands(app: typer.Typer) -> None:
    """Add `setup` to a command line."""
    app.command("setup")(setup)


def setup(
    pool: Annotated[
        str | None, typer.Option("--pool", help="Work pool of the deployments.", show_default="unicoder-vl")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Declares the deployments.", show_default="the prefect.yaml of this project"),
    ] = None,
    json: Json = False,
) -> None:
    """Prepare a Prefect server: work pool, deployments, and the automation that marks dead runs as crashed.

    Run it again after every update: what is as it should be is left alone. Deployed runs work in UNICODER_VL_HOME, or
    else in the folder where this command is run.
    """
    with exit_codes():
        if configured_api_url() is None:
            raise UserError(
                "no Prefect server is named; start one with `prefect server start`, export "
                "PREFECT_API_URL=http://127.0.0.1:4200/api, and run this again"
            )
        home = home_folder()
        project = read_project(file or project_file(), home)
        if pool is not None:
            project = project.with_pool(pool)
        use_server()
        wait_for_server("start it with `prefect server start`")
        from flows.operate.setup import set_up

        made = set_up(project)
        if json:
            print(TypeAdapter(dict[str, list[Made]]).dump_json({"made": made}).decode())
        else:
            print(setup_text(made, project, home))


def setup_text(made: Sequence[Made], project: ProjectSpec, home: Path) -> str:
    """A line for each thing, the folder of runs, and the command of a worker."""
    lines = [f"{one.kind} {one.name}: {one.done}{one.remark and f' ({one.remark})'}" for one in made]
    workers = [f"start a worker with: unicoder-vl worker --pool {pool}" for pool in project.pools]
    return "\n".join([*lines, f"runs work in {home}", *workers])
