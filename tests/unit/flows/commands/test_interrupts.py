"""Signals as a terminal sends them: the first ends a command in order, a second one at once; nobody is left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.terminal import Terminal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent is killed by Linux alone")

COMMAND = """
import typer
from pathlib import Path
from flows.commands.shared import exit_codes
from tasks.workers.launch import run_module, stopping_children
from pydantic import BaseModel

class Job(BaseModel):
    pass

def train(folder: Path) -> None:
    with exit_codes(), stopping_children():
        run_module("played", Job(), folder / "job.json", folder / "log.txt", print)

if __name__ == "__main__":
    typer.run(train)
"""
MODULE = """
import signal, sys, time
from pathlib import Path

folder = Path(sys.argv[-1]).parent

def stop(number, frame):
    (folder / "asked").touch()
    time.sleep(float((folder / "seconds").read_text()))
    (folder / "checkpoint").touch()
    sys.exit(1)

signal.signal(signal.SIGTERM, stop)
(folder / "begun").touch()
time.sleep(600)
"""
"""A training that takes so many seconds to write its checkpoint."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[float], Terminal]]:
    """start(seconds) runs a command with a training; returns when it runs."""
    (tmp_path / "played.py").write_text(MODULE)
    (tmp_path / "command.py").write_text(COMMAND)
    begun: list[Terminal] = []

    def run(seconds: float) -> Terminal:
        (tmp_path / "seconds").write_text(str(seconds))
        path = f"{tmp_path}:{Path(__file__).parents[4]}"
        terminal = Terminal([str(tmp_path / "command.py"), str(tmp_path)], {"PYTHONPATH": path})
        begun.append(terminal)
        terminal.wait_until((tmp_path / "begun").exists)
        return terminal

    yield run
    for terminal in begun:
        terminal.kill()


@pytest.mark.parametrize("how", ["ctrl-c", "hangup", "sigterm"])
def test_the_first_signal_ends_in_order(start: Callable[[float], Terminal], tmp_path: Path, how: str) -> None:
    terminal = start(0)
    if how == "ctrl-c":
        terminal.press_ctrl_c()
        number = signal.SIGINT
    elif how == "hangup":
        terminal.close()
        number = signal.SIGHUP
    else:
        terminal.process.terminate()
        number = signal.SIGTERM
    assert terminal.wait() == 128 + number
    assert (tmp_path / "checkpoint").exists()
    assert "Traceback" not in terminal.said
    if how != "hangup":
        assert terminal.said.removeprefix("^C") == "interrupted; the same command goes on from here\n"


@pytest.mark.slow("processes in a terminal")
def test_a_second_ctrl_c_ends_at_once(start: Callable[[float], Terminal], tmp_path: Path) -> None:
    terminal = start(600)
    terminal.press_ctrl_c()
    terminal.wait_until((tmp_path / "asked").exists)
    terminal.press_ctrl_c()  # Too soon to be meant as a second one.
    while terminal.process.poll() is None:
        terminal.press_ctrl_c()
        with suppress(subprocess.TimeoutExpired):
            terminal.process.wait(0.3)
    assert terminal.wait() == 128 + signal.SIGINT
    assert not (tmp_path / "checkpoint").exists()
    assert terminal.said.replace("^C", "") == "interrupted; the same command goes on from here\n"


def test_ctrl_c_while_a_command_is_still_imported_is_one_line() -> None:
    terminal = Terminal(["-m", "flows", "pretrain", "--help"], {})
    try:
        maps = Path(f"/proc/{terminal.process.pid}/maps")
        terminal.wait_until(lambda: "pydantic_core" in maps.read_text())  # Numpy, typer and more are still to come.
        terminal.press_ctrl_c()
        assert terminal.wait() == 128 + signal.SIGINT
        assert terminal.said == "^Cinterrupted before anything was begun\n"
    finally:
        terminal.kill()
