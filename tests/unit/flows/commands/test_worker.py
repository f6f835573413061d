"""What `unicoder-vl worker` asks of Prefect's worker."""

from __future__ import annotations

import os
import socket

import pytest
from typer.testing import CliRunner

from flows.commands.app import app


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments that Prefect's worker is started with."""
    calls: list[list[str]] = []
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("PREFECT_WORKER_WEBSERVER_HOST", "")
    monkeypatch.delenv("PREFECT_WORKER_WEBSERVER_HOST")  # So that what the command sets is gone after the test.
    monkeypatch.setattr("flows.commands.worker.wait_for_server", lambda advice: None)
    monkeypatch.setattr("flows.commands.worker.run_worker", lambda arguments: calls.append(list(arguments)) or 3)
    return calls


def test_options_are_handed_on_and_the_status_comes_back(asked: list[list[str]]) -> None:
    done = CliRunner().invoke(app, ["worker", "--pool", "gpus", "--limit", "2", "--name", "big", "--with-healthcheck"])
    assert done.exit_code == 3
    assert asked == [["--pool", "gpus", "--limit", "2", "--name", "big", "--with-healthcheck"]]


def test_the_health_check_is_on_loopback_unless_told_otherwise(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_WORKER_WEBSERVER_HOST", "0.0.0.0")
    CliRunner().invoke(app, ["worker", "--with-healthcheck"])
    assert os.environ["PREFECT_WORKER_WEBSERVER_HOST"] == "0.0.0.0"
    monkeypatch.delenv("PREFECT_WORKER_WEBSERVER_HOST")
    CliRunner().invoke(app, ["worker", "--with-healthcheck"])
    assert os.environ["PREFECT_WORKER_WEBSERVER_HOST"] == "127.0.0.1"


def test_a_worker_without_a_server_is_told_how_to_start_one(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["worker"])
    assert done.exit_code == 2 and asked == []


def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr("flows.commands.worker.run_worker", lambda arguments: pytest.fail("was started"))
    done = CliRunner().invoke(app, ["worker"])
    assert done.exit_code == 1
    assert f"the Prefect server at {url} does not answer" in done.output and "prefect server start" in done.output
