"""Runs a module as `python -m` would, in a process that dies with its parent.

    python -m tasks.workers.tether PARENT_PID MODULE ARGUMENT...

`finally` and `atexit` do not run when a parent is killed with SIGKILL, so the child itself asks the kernel to be killed
then (Linux, prctl PR_SET_PDEATHSIG). It asks after its own exec, from its own main thread: no Python code runs between
fork and exec, which would not be safe in a parent with threads. Elsewhere than on Linux the child may outlive a killed
parent.

The signal is SIGKILL, not SIGTERM: a child that still writes its last checkpoint while a second run has begun on the
same folder would be worse than the steps lost. The kernel sends it when the *thread* that started the child ends, so
that thread must wait for the child, as `tasks.workers.launch.run_module` does.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed when its parent ends; end at once if that has happened already.

    Raises:
        OSError: the kernel refused.
    """
    signal_at_parents_end(signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(f"parent {parent_pid} ended before its child had begun")


def signal_at_parents_end(number: signal.Signals) -> None:
    """Have this process sent a signal when its parent ends (on Linux).

    Raises:
        OSError: the kernel refused.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"prctl(PR_SET_PDEATHSIG): {os.strerror(error)}")


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module tethered to this process."""
    return [sys.executable, "-m", "tasks.workers.tether", str(os.getpid()), module, *arguments]


def _main() -> None:
    parent_pid, module, *arguments = sys.argv[1:]
    die_with_parent(int(parent_pid))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
