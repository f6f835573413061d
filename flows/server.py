"""A Prefect server of one command's own, where no other is configured: quiet, offline, and gone with the command.

Prefect starts such a server by itself, but that one takes twice as long (it is imported into the command as well) and
lives on when the command is killed with SIGKILL. This one starts while the command imports Prefect, listens on a
socket that the command has opened (so no port is ever taken), and is tethered to it (`tasks.tether`).

    python -m flows.server SOCKET_DESCRIPTOR
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks import tether
from tasks.errors import StageError
from tasks.logins import without_login

STARTUP_SECONDS = 120.0

# What the user has set stands.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Errors end up with the command line, which prints them once.
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "CRITICAL",
}
_PRIVATE = {
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}
_OWN = "UNICODER_VL_OWN_SERVER"
"""Names the server that this command has started."""


def configure_prefect() -> None:
    """Set Prefect's environment for a command. Call before Prefect is imported."""
    assert "prefect" not in sys.modules
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def configured_api_url() -> str | None:
    """The server that the environment or the active Prefect profile names; None where there is none."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()
    try:
        content = tomllib.loads(profiles.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None  # Absent, or Prefect itself will say what is wrong with it.
    active = os.environ.get("PREFECT_PROFILE", content.get("active", ""))
    url = content.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return str(url) if url else None


@contextmanager
def prefect_server() -> Iterator[None]:
    """Have a Prefect server while the block runs: the configured one, or one of our own.

    It starts in the background: import the flows inside the block, then call `wait_for_server`.

    Raises:
        StageError: from `wait_for_server`.
    """
    configure_prefect()
    if configured_api_url() is not None:
        os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "flows,tasks")
        yield
        return
    os.environ.update(_PRIVATE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor, port = listener.fileno(), listener.getsockname()[1]
        process = subprocess.Popen(
            tether.command("flows.server", str(descriptor)), pass_fds=(descriptor,), stdin=subprocess.DEVNULL
        )
    # Ours is closed now: connections wait in the server's queue while it starts, and are refused if it dies.
    os.environ["PREFECT_API_URL"] = os.environ[_OWN] = f"http://127.0.0.1:{port}/api"
    try:
        yield
    finally:
        del os.environ["PREFECT_API_URL"], os.environ[_OWN]
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_server(advice: str = "start it, or unset PREFECT_API_URL to have one started for this command") -> None:
    """Return once the server of `prefect_server` answers.

    Raises:
        StageError: it does not within two minutes; the message ends with the advice.
    """
    url = configured_api_url()
    assert url is not None
    if os.environ.get(_OWN) == url:
        _send_no_events()
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=STARTUP_SECONDS) as answer:  # noqa: S310
            answer.read()
    except (OSError, urllib.error.URLError) as error:
        raise StageError(f"the Prefect server at {without_login(url)} does not answer ({error}); {advice}") from error


def _send_no_events() -> None:
    """Tell a server of our own nothing of each task: nobody could look at it, and it ends with the command.

    Of thousands of shards it would still be told when it is gone already, 7 seconds for each event, before the command
    could end.
    """
    from prefect.events.clients import NullEventsClient
    from prefect.events.worker import EventsWorker

    EventsWorker.set_client_override(NullEventsClient)


def _serve(descriptor: int) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    # Ephemeral: no schedules and no late-run checks; a command's own runs need neither.
    uvicorn.run(create_app(ephemeral=True), fd=descriptor, log_level="error", lifespan="on")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
