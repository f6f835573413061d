"""The peer of the download stage: img2dataset 1.47.0, found or installed, never into our own environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "1.47.0"


class NoPeer(Exception):  # noqa: N818 (a state of affairs, not an error)
    """There is no img2dataset to measure; the message says why."""


def find() -> str:
    """Path of the executable: what IMG2DATASET names, else one on PATH, else one installed for this bench.

    The last stays in this user's cache, for the next run.

    Raises:
        NoPeer: none of them.
    """
    named = os.environ.get("IMG2DATASET") or shutil.which("img2dataset")
    if named:
        if not os.access(named, os.X_OK):
            raise NoPeer(f"IMG2DATASET names {named}, which cannot be run")
        return named
    if sys.version_info >= (3, 13):
        raise NoPeer("img2dataset cannot start on Python 3.13; name one of an older Python in IMG2DATASET")
    return _installed()


def _installed() -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "unicoder-vl" / f"img2dataset-{VERSION}"
    ready, executable = folder / ".ready", folder / "bin/img2dataset"
    if not ready.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        install = [
            str(folder / "bin/python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            f"img2dataset=={VERSION}",
        ]
        for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], install):
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
            except subprocess.CalledProcessError as error:
                words = (error.stderr or error.stdout).strip().splitlines()
                raise NoPeer(f"img2dataset {VERSION} cannot be installed: {words[-1] if words else error}") from error
            except subprocess.TimeoutExpired as error:
                raise NoPeer(f"img2dataset {VERSION} is not installed after ten minutes") from error
        ready.touch()
    return str(executable)


def command(executable: str, rows: Path, folder: Path, resize: list[str], shard_size: int, threads: int) -> list[str]:
    """A run in two processes. Its `thread_count` is per process."""
    options = {
        "url_list": rows,
        "input_format": "tsv",
        "url_col": "url",
        "caption_col": "caption",
        "output_folder": folder,
        "output_format": "webdataset",
        "processes_count": 2,
        "thread_count": threads,
        "number_sample_per_shard": shard_size,
        "retries": 0,
        "timeout": 10,
        "enable_wandb": False,
    }
    return [executable, *(f"--{name}={value}" for name, value in options.items()), *resize]


def successes(folder: Path) -> int:
    """Pictures that a run has written, by its own statistics."""
    return sum(json.loads(path.read_text())["successes"] for path in folder.glob("*_stats.json"))
