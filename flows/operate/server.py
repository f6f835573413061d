"""A Prefect server of one command's own, where no other is configured: quiet, offline, and gone with the command.

Prefect starts such a server by itself, but that one takes twice as long (it is imported into the command as well) and
lives on when the command is killed with SIGKILL. This one starts while the command imports Prefect, listens on a
socket that the command has opened (so no port is ever taken), and is tethered to it (`tasks.workers.tether`).

    python -m flows.operate.server SOCKET_DESCRIPTOR
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import tomllib
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path

from tasks.errors import StageError, UserError
from tasks.storage.logins import without_login
from tasks.workers import tether
from tasks.workers.loopback import bypass_proxies_on_loopback, is_loopback

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
_WORDS_SHOWN = 5


def configure_prefect() -> None:
    """Set Prefect's environment for a command. Call before Prefect is imported."""
    assert "prefect" not in sys.modules
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def configured_api_url() -> str | None:
    """The server that the environment or the active Prefect profile names; None where there is none."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    home = _home()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()
    try:
        content = tomllib.loads(profiles.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None  # Absent, or Prefect itself will say what is wrong with it.
    active = os.environ.get("PREFECT_PROFILE", content.get("active", ""))
    url = content.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    return str(url) if url else None


def _home() -> Path:
    """Where Prefect keeps its profiles and its database."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect")
    try:
        return home.expanduser()
    except RuntimeError:
        return home  # There is no home: neither in the environment, nor of this user.


def _check_home() -> None:
    """Make Prefect's home, as Prefect would.

    Raises:
        UserError: that cannot be, or nothing can be written in it.
    """
    home = _home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise UserError(
            f"Prefect's home {home} cannot be written ({error.strerror}); set PREFECT_HOME to a folder that can be"
        ) from error


@contextmanager
def prefect_server() -> Iterator[None]:
    """Have a Prefect server while the block runs: the configured one, or one of our own.

    It starts in the background: import the flows inside the block, then call `wait_for_server`.

    Raises:
        UserError: Prefect's home cannot be written, where one of our own keeps its database.
        StageError: from `wait_for_server`.
    """
    bypass_proxies_on_loopback()
    configure_prefect()
    if configured_api_url() is not None:
        os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "flows,tasks")
        yield
        return
    _check_home()
    os.environ.update(_PRIVATE)
    server = _OwnServer()
    os.environ["PREFECT_API_URL"] = server.url
    _own.append(server)
    try:
        yield
    finally:
        _own.remove(server)
        del os.environ["PREFECT_API_URL"]
        server.stop()


def wait_for_server(advice: str = "start it, or unset PREFECT_API_URL to run without one") -> None:
    """Return once the server of `prefect_server` answers.

    Raises:
        StageError: it does not within two minutes. The message is about this command's own server, or names the
            configured one and ends with the advice.
    """
    url = configured_api_url()
    assert url is not None
    own = next((server for server in _own if server.url == url), None)
    if own is not None:
        _send_no_events()
    if is_loopback(url):
        _bypass_proxies()
    try:
        handlers = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
        with urllib.request.build_opener(*handlers).open(f"{url}/health", timeout=STARTUP_SECONDS) as answer:
            answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        if own is not None:
            raise StageError(own.failure(error)) from error
        raise StageError(f"the Prefect server at {without_login(url)} does not answer ({error}); {advice}") from error
    if own is not None:
        own.answered = True


class _OwnServer:
    """The server of one command, its socket opened and its process begun."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            descriptor = listener.fileno()
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._process = subprocess.Popen(
                tether.command("flows.operate.server", str(descriptor)),
                pass_fds=(descriptor,),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                # Ctrl-C in a terminal goes to the command's group. The command ends first, and then its server.
                process_group=0,
            )
        # Ours is closed now: connections wait in the server's queue while it starts, and are refused if it dies.
        self.answered = False
        self._last_words: deque[str] = deque(maxlen=_WORDS_SHOWN)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def failure(self, error: Exception) -> str:
        """What became of a server that does not answer, with its last words."""
        try:
            status = self._process.wait(1)
        except subprocess.TimeoutExpired:
            how = f"did not answer within {STARTUP_SECONDS:.0f} s ({error})"
        else:
            self._reader.join(1)
            how = f"ended with {status} before it answered"
        words = "".join(f"\n    {line}" for line in self._last_words)
        return f"the Prefect server that this command starts for itself {how}; its last words:{words or ' none'}"

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(1)

    def _read(self) -> None:
        """Keep the last lines; once it has answered, nobody asks for them, so they are shown as they come."""
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._last_words.append(text)
                if self.answered and sys.stderr is not None:
                    print(text, file=sys.stderr)


_own: list[_OwnServer] = []
"""The server that this command has started, while it runs."""


def _bypass_proxies() -> None:
    """Have Prefect's client read no proxies: it makes a transport of each, and some cannot be made.

    NO_PROXY does not help: `ALL_PROXY=socks5://...` without the package for it is an error, wherever a request goes.
    """
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

    for client in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        if not isinstance(vars(client)["__init__"], partialmethod):
            setattr(client, "__init__", partialmethod(client.__init__, trust_env=False))  # noqa: B010


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
