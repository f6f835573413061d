"""What commands cost that find all done, or little to do: CPU-seconds, and as a multiple of importing torch.

Of a small experiment that is made here by the demo's own recipe, with the fewest steps. Each command runs with all its
processes, and bytecode, as `make setup` leaves it; the first round, which writes what is missing of that, is not
counted.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from tasks.world.dataset import WorldConfig, make_world
from tests.bench.clock import cpu_cost

_ROUNDS = 3
_WORLD = WorldConfig(pretraining_images=64, retrieval_train=16, retrieval_val=8, retrieval_test=16, workers=2)
_SHORT: dict[str, Any] = {"steps": 1, "batch_size": 8, "checkpoint_steps": 1, "log_steps": 1}
_AIMS = {"params": 0.4, "status": 0.4, "history": 0.4, "evaluate": 1.5, "rebuild": 1.5, "search": 3.0, "pretrain": 3.0}
"""CPU-seconds where importing torch takes 2."""


def run() -> Iterator[str]:
    torch = cpu_cost(lambda: _run("-c", "import torch"), _ROUNDS)
    yield f"import torch, {torch:.2f} CPU-s"
    with tempfile.TemporaryDirectory() as folder:
        params, path = _experiment(Path(folder))
        _command("rebuild", "--params", str(path))
        shown = ["--params", str(path)]
        commands: dict[str, Sequence[str]] = {
            "params": shown,
            "status": shown,
            "history": ["--root", params.root_uri],
            "evaluate": shown,
            "rebuild": shown,
            "search": ["a red ball", "--root", params.root_uri, "--images", "retrieval/test"],
        }
        works: dict[str, Callable[[], object]] = {
            name: lambda name=name, given=given: _command(name, *given)  # type: ignore[misc]
            for name, given in commands.items()
        }
        works["pretrain"] = _one_step(params, Path(folder))
        for name, work in works.items():
            cost = cpu_cost(work, _ROUNDS)
            what = "one step, the program alone" if name == "pretrain" else "all done before"
            aim = _AIMS[name]
            yield f"{name}, {what}: {cost:.2f} CPU-s, {cost / torch:.2f} of torch's import (aim {aim / 2:.2f})"


def _experiment(folder: Path) -> tuple[RebuildParams, Path]:
    """The demo, shrunk; and its parameters in a file."""
    params = recipe("demo", str(folder / "root"))
    assert params.task_specific is not None
    params = params.model_copy(
        update={
            "pretrain": params.pretrain.model_copy(update=_SHORT),
            "finetune": params.finetune.model_copy(update=_SHORT),
            "task_specific": params.task_specific.model_copy(update=_SHORT),
        }
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    make_world(folder / "root" / "world", _WORLD, port)
    path = folder / "params.json"
    path.write_text(params.model_dump_json())
    return params, path


def _one_step(params: RebuildParams, folder: Path) -> Callable[[], None]:
    """The same training each time, in a new folder: `python -m model.pretrain`."""
    (written,) = Path(params.root_uri).glob("runs/pretrain-*/job.json")
    job, path = folder / "job.json", folder / "again"
    job.write_text(json.dumps(json.loads(written.read_text()) | {"run_path": str(path)}))

    def train() -> None:
        shutil.rmtree(path, ignore_errors=True)
        _run("-m", "model.pretrain", "--config", str(job))

    return train


def _command(name: str, *arguments: str) -> None:
    _run("-m", "flows", name, *arguments)


def _run(*arguments: str) -> None:
    unset = ("PYTHONDONTWRITEBYTECODE", "PREFECT_API_URL")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
