"""A server with basic auth, and a caller without its password."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.operate.deployments import read_project
from flows.operate.setup import set_up
from tasks.errors import UserError

REPOSITORY = Path(__file__).parents[4]


class Refusing(BaseHTTPRequestHandler):
    """Answers as Prefect does whoever does not know the password."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b'{"exception_message": "Unauthorized"}'
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def api_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


@pytest.mark.parametrize("password", ["", "operator:wr0ng-secret"])
def test_setup_says_where_the_password_goes_and_not_what_was_tried(api_url: str, password: str) -> None:
    project = read_project(REPOSITORY / "prefect.yaml", REPOSITORY)
    with (
        temporary_settings({PREFECT_API_URL: api_url, PREFECT_API_AUTH_STRING: password}),
        pytest.raises(UserError, match="wants a password; set PREFECT_API_AUTH_STRING") as caught,
    ):
        set_up(project)
    assert "wr0ng" not in str(caught.value)
