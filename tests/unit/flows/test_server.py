"""Which Prefect server a command uses, and that its own does not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.server import configured_api_url

REPOSITORY = Path(__file__).parents[3]
PROFILES = """
active = "team"
[profiles.ephemeral]
[profiles.team]
PREFECT_API_URL = "http://prefect.example/api"
"""


@pytest.fixture(autouse=True)
def prefect_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


def test_no_server_is_configured_on_a_fresh_machine() -> None:
    assert configured_api_url() is None


def test_active_profile_names_the_server(prefect_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prefect_home / "profiles.toml").write_text(PROFILES)
    assert configured_api_url() == "http://prefect.example/api"
    monkeypatch.setenv("PREFECT_PROFILE", "ephemeral")
    assert configured_api_url() is None


def test_environment_wins_over_the_profile(prefect_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prefect_home / "profiles.toml").write_text(PROFILES)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert configured_api_url() == "http://127.0.0.1:4200/api"


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.flow
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_own_server_answers_is_told_no_events_and_ends_with_its_command(number: signal.Signals) -> None:
    code = (
        "import time\nfrom flows.server import prefect_server, wait_for_server\n"
        "with prefect_server():\n    wait_for_server()\n    from prefect.events import emit_event\n"
        "    assert emit_event('told', {'prefect.resource.id': 'nobody'}) is None\n"
        "    print('up', flush=True)\n    time.sleep(600)"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ
    )
    assert command.stdout is not None
    with command.stdout:
        try:
            assert command.stdout.readline() == b"up\n"
            (server,) = children_of(command.pid)
            assert running(server)
            command.send_signal(number)
            command.wait(30)
        finally:
            command.kill()
            command.wait()
    end = time.monotonic() + 10
    while running(server) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(server)
