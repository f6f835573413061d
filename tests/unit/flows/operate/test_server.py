"""Which Prefect server a command uses, and how it is spoken to."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from flows.operate.server import configured_api_url, wait_for_server
from tasks.errors import StageError

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


class _Healthy(BaseHTTPRequestHandler):
    """A server of which nothing is asked but whether it is there."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.flow
@pytest.mark.slow("imports Prefect in a process of its own")
def test_a_server_on_loopback_is_spoken_to_whatever_the_proxies() -> None:
    code = (
        "from flows.operate.server import use_server, wait_for_server\nuse_server()\nwait_for_server()\n"
        "from prefect import get_client\n"
        "with get_client(sync_client=True) as client:\n    print(client.api_healthcheck())"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), _Healthy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = {**PROXIES, "PREFECT_API_URL": f"http://127.0.0.1:{server.server_port}/api"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | environment
        )
        server.shutdown()
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr
