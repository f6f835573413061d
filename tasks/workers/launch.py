"""Start a compute room's module as a subprocess, follow it, and leave no process behind.

The child leads its own process group and is tethered to this process (`tasks.workers.tether`), so:

- an exception or Ctrl-C here: SIGTERM to the group (training writes a checkpoint), `GRACE_SECONDS`, SIGKILL;
- this process killed with SIGKILL: the kernel kills the child;
- a child that ends by itself and leaves processes of its group behind: those are killed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pydantic import BaseModel, TypeAdapter, ValidationError

from model.progress import Ending, Progress
from tasks.errors import StageError, UserError
from tasks.workers import tether
from tasks.workers.machines import NodesConfig

GRACE_SECONDS = 30.0
PATIENCE_SECONDS = 1800.0
"""How long machines that train together wait for each other at the start: each may have features to fetch."""
_LOG_LINES_SHOWN = 15
_CAME = re.compile(r"(\d+)/\d+ clients joined")
"""In what torch says when nodes did not come."""
_MESSAGE: TypeAdapter[Progress | Ending] = TypeAdapter(Progress | Ending)


class _Child:
    """A running module: its process, its log, and the threads that watch both."""

    def __init__(self, arguments: list[str], log: IO[bytes]) -> None:
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        self._log = log
        self._log_lock = threading.Lock()
        self.last_stderr: deque[str] = deque(maxlen=_LOG_LINES_SHOWN)
        self._stderr_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_reader.start()
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        self._waiter.start()

    def stdout_lines(self) -> Iterator[bytes]:
        """Lines of stdout until the last process of the group has closed it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._copy(line)
            yield line

    def join(self) -> int:
        """Wait for the end and return the exit status, negative for a signal."""
        self._waiter.join()
        self._stderr_reader.join()
        return self.process.returncode

    def stop(self, grace_seconds: float) -> None:
        """Stop the group by SIGTERM, then SIGKILL after the grace time, and wait for its end."""
        self._signal(signal.SIGTERM)
        self._waiter.join(grace_seconds)
        if self._waiter.is_alive():
            self._signal(signal.SIGKILL)
        self._waiter.join()

    def kill(self) -> None:
        """Send SIGKILL to the group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _wait(self) -> None:
        self.process.wait()
        # Grandchildren would keep the pipes, and perhaps an accelerator, open.
        self._signal(signal.SIGKILL)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._copy(line)
            text = line.decode(errors="replace").strip()
            if text:
                self.last_stderr.append(text)

    def _copy(self, line: bytes) -> None:
        with self._log_lock:
            self._log.write(line)
            self._log.flush()


class _Children:
    """The modules that run now.

    Once closed, no further one starts: an interrupt must not race with a new child.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[_Child] = set()
        self._closed = False

    def open(self) -> None:
        with self._lock:
            self._closed = False

    def start(self, arguments: list[str], log: IO[bytes]) -> _Child:
        with self._lock:
            if self._closed:
                raise StageError("interrupted: no further process is started")
            child = _Child(arguments, log)
            self._running.add(child)
            return child

    def forget(self, child: _Child) -> None:
        with self._lock:
            self._running.discard(child)

    def stop_all(self, grace_seconds: float) -> None:
        with self._lock:
            self._closed = True
            children = list(self._running)
        stoppers = [threading.Thread(target=child.stop, args=(grace_seconds,)) for child in children]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()

    def kill_all(self) -> None:
        """Kill without the lock: a signal handler may interrupt its holder, and must not wait for it."""
        self._closed = True
        for child in tuple(self._running):
            child.kill()


_children = _Children()


@contextmanager
def stopping_children(grace_seconds: float = GRACE_SECONDS) -> Iterator[None]:
    """Stop every running module when this block is interrupted.

    Ctrl-C and a worker's cancellation reach the main thread alone. Tasks in other threads would go on waiting for
    their children, and the flow for its tasks.
    """
    _children.open()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            _children.stop_all(grace_seconds)
        raise


def kill_children() -> None:
    """Kill every running module, from a signal handler."""
    _children.kill_all()


def run_module(
    module: str,
    job: BaseModel,
    job_path: Path,
    log_path: Path,
    on_progress: Callable[[Progress], None],
    grace_seconds: float = GRACE_SECONDS,
    num_processes: int = 1,
    nodes: NodesConfig | None = None,
) -> None:
    """Run `python -m MODULE --config JOB_PATH` to its end.

    Under torchrun, that is several processes.

    Args:
        module: for instance `model.pretrain`; reports `Progress` and `Ending` of `model.progress` as JSON on stdout.
        job: written to `job_path` first.
        log_path: gets everything the child writes, on both streams; appended to.
        on_progress: called in this thread for every report.
        grace_seconds: from SIGTERM to SIGKILL when this call is interrupted.
        num_processes: that work together on this machine. torchrun puts each in a session of its own, which is why a
            module must end with torchrun by itself (see `model.training.processes`).
        nodes: the machines whose processes work together; None: this one alone.

    Raises:
        UserError: the child said that its input is at fault (`Ending`).
        StageError: the child failed; the message names the log file, and says what the child said or shows the log's
            last lines.
    """
    job_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    job_path.write_text(job.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with log_path.open("ab") as log:
        child = _children.start(_command(module, job_path, num_processes, nodes), log)
        try:
            ending: Ending | None = None
            for line in child.stdout_lines():
                message = _parse(line)
                if isinstance(message, Progress):
                    on_progress(message)
                elif message is not None and (ending is None or message.bad_input):
                    ending = message
            status = child.join()
        except BaseException:
            child.stop(grace_seconds)
            child.join()
            raise
        finally:
            _children.forget(child)
    if status != 0 and ending is not None:
        if ending.bad_input:
            raise UserError(ending.error)
        again = "" if nodes is None else "; start the same command on every node again, and the run goes on"
        raise StageError(f"{ending.error}{again} (log: {log_path})")
    if status != 0 and (absent := _absent_nodes(child.last_stderr, nodes)):
        raise StageError(f"{absent} (log: {log_path})")
    if status != 0:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
        last_lines = "".join(f"\n    {line}" for line in child.last_stderr)
        raise StageError(f"{module} {how}; its log is {log_path}{last_lines}")


def _command(module: str, job_path: Path, num_processes: int, nodes: NodesConfig | None) -> list[str]:
    arguments = [module, "--config", str(job_path)]
    if nodes is not None:
        machines = ["--nnodes", str(nodes.nnodes), "--node-rank", str(nodes.node_rank)]
        machines += ["--master-addr", nodes.master_addr, "--master-port", str(nodes.master_port)]
        # Machines that were given the same port for different runs do not find each other.
        machines += ["--rdzv-id", job_path.parent.name, "--rdzv-conf", f"timeout={PATIENCE_SECONDS:.0f}"]
    elif num_processes > 1:
        machines = ["--standalone"]
    else:
        return tether.command(*arguments)
    return tether.command("torch.distributed.run", *machines, "--nproc-per-node", str(num_processes), "-m", *arguments)


def _absent_nodes(last_stderr: Iterable[str], nodes: NodesConfig | None) -> str | None:
    """The message where torchrun gave up waiting for other nodes; None where something else went wrong."""
    found = next((match for line in last_stderr if (match := _CAME.search(line))), None)
    if nodes is None or found is None:
        return None
    return (
        f"{found[1]} of {nodes.nnodes} nodes came to {nodes.master_addr}:{nodes.master_port} within "
        f"{PATIENCE_SECONDS / 60:.0f} minutes; start the same command on every node, each with its --node-rank"
    )


def _parse(line: bytes) -> Progress | Ending | None:
    """Parse a report line; None for a line that a library printed, which is in the log."""
    if not line.startswith(b"{"):
        return None
    try:
        return _MESSAGE.validate_json(line)
    except ValidationError:
        return None
