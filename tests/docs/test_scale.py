"""What docs/scale.md types: the command line and the deployments take it. Clusters and object stores have tests of
their own."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from flows.commands.app import app
from flows.params.changes import with_changes
from flows.params.recipes import recipe

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/scale.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line]
COMMANDS = re.findall(r"unicoder-vl [^'\n]*", "\n".join(LINES))


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_line_takes_what_the_page_types(line: str) -> None:
    # What a shell on a cluster puts in.
    line = line.replace("$SLURM_NNODES", "4").replace("$SLURM_NODEID", "3")
    words = shlex.split(re.sub(r"\$\([^)]*\)", "gpu-a", line))
    command = typer.main.get_group(app).get_command(None, words[1])  # type: ignore[arg-type]
    assert command is not None
    with command.make_context(words[1], words[2:]) as context:
        assert context.params


@pytest.mark.parametrize("changes", re.findall(r"'changes=(\{.*\})'", PAGE))
def test_the_deployment_takes_the_changes(changes: str) -> None:
    params = with_changes(recipe("cc3m", "data").for_extract(), json.loads(changes))
    assert params.ray is not None and params.root_uri.startswith("s3://")


def test_every_line_is_one_of_these() -> None:
    assert len(COMMANDS) == 7
    assert [
        line for line in LINES if "unicoder-vl " not in line and "prefect deployment run extract/cc3m " not in line
    ] == ["export AWS_ENDPOINT_URL=https://... AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=..."]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:docs|tests)/[\w/.]*)`", PAGE))))
def test_every_file_named_exists(name: str) -> None:
    assert (REPOSITORY / name).exists()
