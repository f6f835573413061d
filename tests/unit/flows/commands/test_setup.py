"""`unicoder-vl setup` without a server; with one it is tested in tests/flows/test_operations.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.commands.app import app
from flows.commands.setup import setup_text
from flows.operate.deployments import project_file, read_project
from flows.results import Made


@pytest.fixture(autouse=True)
def prefect_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))


def setup(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["setup", *arguments], catch_exceptions=False)


def test_without_a_server_it_says_how_to_start_one() -> None:
    result = setup()
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "prefect server start" in result.stderr
    assert "PREFECT_API_URL=http://127.0.0.1:4200/api" in result.stderr


def test_a_file_that_cannot_be_read_is_told_before_the_server_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    result = setup("--file", str(tmp_path / "nowhere.yaml"))
    assert result.exit_code == 2
    assert "nowhere.yaml cannot be read" in result.stderr


def test_text_has_a_line_for_each_thing_and_says_what_comes_next() -> None:
    made = [
        Made(kind="work pool", name="gpus", done="stands", remark="of type process"),
        Made(kind="deployment", name="rebuild/demo", done="changed"),
    ]
    project = read_project(project_file(), Path("/srv/vl")).with_pool("gpus")
    assert setup_text(made, project, Path("/srv/vl")).splitlines() == [
        "work pool gpus: stands (of type process)",
        "deployment rebuild/demo: changed",
        "runs work in /srv/vl",
        "start a worker with: unicoder-vl worker --pool gpus",
    ]
