"""A Prefect server and its workers, as an operator runs them: on loopback, each with what it needs in one folder.

All of it ends with the test that started it. Server and workers are tethered to the test's process; runs, which a
killed worker leaves behind, are found by the folder that their environment names.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil

from tasks.workers import tether
from tests.processes import GONE, with_environment

REPOSITORY = Path(__file__).parents[1]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def wait_until(happened: Callable[[], object], what: str, seconds: float) -> None:
    """Return once it happened; AssertionError after so many seconds."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)


class Site:
    """A folder with a Prefect home and database of its own, a server, and what is run against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.api_url = f"http://127.0.0.1:{port}/api"
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            # Runs are looked for, and scheduled, more often than every 10 and 60 s: tests wait for both.
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "10",
            "UNICODER_VL_HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        }
        self._started: list[subprocess.Popen[bytes]] = []
        # What `prefect server start` starts: that one would leave it behind when it is killed.
        server = ("--factory", "prefect.server.api.server:create_app", "--port", str(port), "--log-level", "warning")
        self.start("uvicorn", *server)

    def start_worker(self) -> subprocess.Popen[bytes]:
        """`unicoder-vl worker`."""
        return self.start("flows", "worker")

    def start_prefects_worker(self) -> subprocess.Popen[bytes]:
        return self.start("prefect", "worker", "start", "--pool", "unicoder-vl")

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """`python -m MODULE ARGUMENTS` in the background.

        What it says goes to NAME.log, or NAME.out: its first argument, or MODULE where that is an option.
        """
        name = arguments[0] if not arguments[0].startswith("-") else module
        with (self.folder / f"{name}.log").open("ab") as log, (self.folder / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                tether.command(module, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
            )
        self._started.append(process)
        return process

    def wait_for_server(self, seconds: float = 120) -> None:
        def answers() -> bool:
            try:
                return self.get("/health") is True
            except urllib.error.URLError:
                return False

        wait_until(answers, f"the server of {self.folder}", seconds)

    def command(self, *arguments: str) -> str:
        """Run `python -m ARGUMENTS` to its end, and return its stdout.

        Raises:
            AssertionError: it failed.
        """
        ended = subprocess.run(
            [sys.executable, "-m", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            timeout=240,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def get(self, path: str) -> Any:
        return self._request("GET", path, None)

    def post(self, path: str, content: Mapping[str, Any]) -> Any:
        return self._request("POST", path, content)

    def patch(self, path: str, content: Mapping[str, Any]) -> None:
        self._request("PATCH", path, content)

    def _request(self, method: str, path: str, content: Mapping[str, Any] | None) -> Any:
        request = urllib.request.Request(
            self.api_url + path,
            data=None if content is None else json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        for last in (False, False, True):
            try:
                with urllib.request.urlopen(request, timeout=240) as answer:
                    text = answer.read()
            except urllib.error.HTTPError as error:
                # SQLite was locked for too long. Prefect's client asks again, too.
                if last or error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                time.sleep(1)
            else:
                break
        return json.loads(text) if text else None

    def run(self, deployment: str, params: Mapping[str, Any] | None = None) -> str:
        """Ask for a run of FLOW/NAME, with other parameters than its own perhaps; its id."""
        found = self.get(f"/deployments/name/{deployment}")
        content = {"state": {"type": "SCHEDULED"}, **({} if params is None else {"parameters": {"params": params}})}
        return str(self.post(f"/deployments/{found['id']}/create_flow_run", content)["id"])

    def state(self, run: str) -> str:
        """COMPLETED, say."""
        return str(self.get(f"/flow_runs/{run}")["state"]["type"])

    def message(self, run: str) -> str:
        """What a run says of its state."""
        return str(self.get(f"/flow_runs/{run}")["state"]["message"])

    def wait_for_end(self, run: str, seconds: float = 240) -> str:
        wait_until(lambda: self.state(run) in FINAL, f"the end of run {run}", seconds)
        return self.state(run)

    def scheduled_runs(self, deployment: str) -> int:
        """How many runs of FLOW/NAME wait for their time."""
        id_ = self.get(f"/deployments/name/{deployment}")["id"]
        wanted = {"deployments": {"id": {"any_": [id_]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        return len(self.post("/flow_runs/filter", wanted))

    def cancel(self, run: str) -> None:
        self.post(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})

    def retry(self, run: str) -> None:
        """What `prefect flow-run retry` asks for."""
        self.post(
            f"/flow_runs/{run}/set_state", {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        )

    def artifact(self, run: str, key: str) -> Any:
        """The newest table of a run by this key."""
        of_run = {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}
        found = self.post("/artifacts/filter", {"artifacts": of_run, "sort": "CREATED_DESC", "limit": 1})
        return json.loads(found[0]["data"])

    def log(self, run: str) -> list[str]:
        """What a run said."""
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.post("/logs/filter", wanted)]

    def processes(self, run: str | None = None) -> list[int]:
        """Processes that work in this folder: all, or those of a run, its subprocesses too."""
        marks = {"UNICODER_VL_HOME": str(self.folder)} | ({} if run is None else {"PREFECT__FLOW_RUN_ID": run})
        return [process.pid for process in with_environment(**marks)]

    def kill(self, run: str) -> None:
        """kill -9 the process that runs a flow: not its subprocesses, which are to end by themselves."""
        of_run = self.processes(run)
        (first,) = [pid for pid in of_run if psutil.Process(pid).ppid() not in of_run]
        os.kill(first, signal.SIGKILL)

    def pool_workers(self, run: str) -> list[int]:
        """The processes that work on shards for a run."""
        return [pid for pid in self.processes(run) if "multiprocessing.spawn" in _command_line(pid)]

    def wait_for_nobody(self, run: str) -> None:
        """Return once no process of a run is left."""
        wait_until(lambda: not self.processes(run), f"the end of all processes of run {run}", 60)

    def end(self) -> None:
        """Kill what is left of all that was started here."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait()


def _command_line(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except GONE:
        return ""
