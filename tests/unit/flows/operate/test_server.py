"""Which Prefect server a command uses, and that its own does not outlive it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.operate.server import configured_api_url, prefect_server, wait_for_server
from tasks.errors import StageError, UserError

REPOSITORY = Path(__file__).parents[4]
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


@pytest.mark.parametrize("under", ["", "folder"])
def test_a_prefect_home_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under: str
) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / under
    for name, value in {"PREFECT_HOME": str(home), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with (
        monkeypatch.context() as prefect_is_not_imported,
        pytest.raises(UserError, match=r"Prefect's home .*file.* cannot be written .*; set PREFECT_HOME to a folder"),
    ):
        prefect_is_not_imported.setattr("flows.operate.server.configure_prefect", lambda: None)
        with prefect_server():
            pass
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.setenv("HOME", str(home))
    with (
        monkeypatch.context() as prefect_is_not_imported,
        pytest.raises(UserError, match=r"file.*\.prefect cannot be written"),
    ):
        prefect_is_not_imported.setattr("flows.operate.server.configure_prefect", lambda: None)
        with prefect_server():
            pass


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def addresses_listening_on(port: int | None) -> list[str]:
    """Local addresses of the sockets that listen on a port, as /proc has them: 0100007F is 127.0.0.1."""
    fields = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return [one[1].partition(":")[0] for one in fields if one[1].endswith(f":{port:04X}") and one[3] == "0A"]


def test_prefects_own_server_listens_on_loopback_unless_told_otherwise() -> None:
    """What the operators' page starts; docker/compose.yaml alone tells it otherwise, and publishes it on loopback."""
    from prefect.settings import Settings

    assert Settings().server.api.host == "127.0.0.1"
    commands = re.findall(r"prefect server start.*", (REPOSITORY / "docs/operators.md").read_text())
    assert commands and not [command for command in commands if "--host" in command]


def test_a_server_that_does_not_answer_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("PREFECT_API_URL", f"http://me:secret@127.0.0.1:{port}/api")
    with pytest.raises(StageError, match=f"the Prefect server at http://127.0.0.1:{port}/api does not") as caught:
        wait_for_server()
    assert "secret" not in str(caught.value)


PROXIES = {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "foo:bar:baz", "ALL_PROXY": "socks5://127.0.0.1:9"}
"""Of which none answers, and Prefect's client can use but the first."""


@pytest.mark.flow
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.slow("starts Prefect's server")
def test_own_server_answers_whatever_the_proxies_is_told_no_events_and_ends_with_its_command(
    number: signal.Signals,
) -> None:
    code = (
        "import time\nfrom flows.operate.server import prefect_server, wait_for_server\n"
        "with prefect_server():\n    wait_for_server()\n    from prefect.events import emit_event\n"
        "    assert emit_event('told', {'prefect.resource.id': 'nobody'}) is None\n"
        "    from prefect import flow, get_client\n    assert flow(lambda: 3, name='three')() == 3\n"
        "    with get_client(sync_client=True) as client:\n        assert client.read_flow_by_name('three')\n"
        "    import os\n    print(os.environ['PREFECT_API_URL'], flush=True)\n    time.sleep(600)"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | PROXIES,
    )
    assert command.stdout is not None
    with command.stdout:
        try:
            port = urlsplit(command.stdout.readline().decode()).port
            assert addresses_listening_on(port) == ["0100007F"]
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


@pytest.mark.flow
def test_own_server_that_does_not_start_is_told_of_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////dev/null/prefect.db")
    imports = "from flows.operate.server import prefect_server, wait_for_server"
    code = f"{imports}\nwith prefect_server():\n    wait_for_server()"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | PROXIES
    )
    _, _, said = ended.stderr.rpartition("tasks.errors.StageError: ")
    assert said.startswith("the Prefect server that this command starts for itself ended with")
    assert "unable to open database file" in said and "PREFECT_API_URL" not in said
