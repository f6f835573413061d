"""The configured Prefect server, if any: its address, Prefect's settings for it, and whether it answers."""

from __future__ import annotations

import http.client
import os
import sys
import tomllib
import urllib.request
from functools import partialmethod
from pathlib import Path

from tasks.errors import StageError
from tasks.storage.logins import without_login
from tasks.workers.loopback import bypass_proxies_on_loopback, is_loopback

STARTUP_SECONDS = 120.0

# What the user has set stays.
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Errors end up with the command line, which prints them once.
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "CRITICAL",
}


def configure_prefect() -> None:
    """Set Prefect's environment for a command. Call before Prefect is imported."""
    assert "prefect" not in sys.modules
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def configured_api_url() -> str | None:
    """URL of the server in the environment or the active Prefect profile; None without one."""
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
    """Prefect's folder of profiles and database."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect")
    try:
        return home.expanduser()
    except RuntimeError:
        return home  # Neither the environment nor this user has a home.


def use_server() -> None:
    """Prepare to use the configured server. Call before the flows, and so Prefect, are imported."""
    bypass_proxies_on_loopback()
    configure_prefect()
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "flows,tasks")


def wait_for_server(advice: str = "start it, or unset PREFECT_API_URL to run without one") -> None:
    """Wait until the configured server answers.

    Raises:
        StageError: it does not within two minutes. The message names it and ends with the advice.
    """
    url = configured_api_url()
    assert url is not None
    if is_loopback(url):
        _bypass_proxies()
    try:
        handlers = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
        with urllib.request.build_opener(*handlers).open(f"{url}/health", timeout=STARTUP_SECONDS) as answer:
            answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise StageError(f"the Prefect server at {without_login(url)} does not answer ({error}); {advice}") from error


def _bypass_proxies() -> None:
    """Keep Prefect's client from reading proxies: it makes a transport of each, and some cannot be made.

    NO_PROXY does not help: `ALL_PROXY=socks5://...` without the package for it is an error, wherever a request goes.
    """
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

    for client in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        if not isinstance(vars(client)["__init__"], partialmethod):
            setattr(client, "__init__", partialmethod(client.__init__, trust_env=False))  # noqa: B010
