"""kill -9 of the whole command: it goes on where it was and ends with the same table.

Here between one shard and the next and in the middle of training; kills within a stage are tested with the stages.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from tasks.world.dataset import WorldConfig, make_world
from tests.processes import naming

pytestmark = pytest.mark.flow

REPOSITORY = Path(__file__).parents[2]
WORLD = WorldConfig(pretraining_images=40, retrieval_train=8, retrieval_val=2, retrieval_test=5, workers=1)


def write_params(folder: Path) -> tuple[RebuildParams, Path]:
    """The demo with small shards and short training, under `folder`, and its world."""
    params = recipe("demo", str(folder))
    short = {"steps": 60, "batch_size": 4, "checkpoint_steps": 10, "log_steps": 10}
    params = params.model_copy(
        update={
            "pretraining_dataset": params.pretraining_dataset.model_copy(update={"shard_size": 8}),
            "pretrain": params.pretrain.model_copy(update=short),
            "finetune": params.finetune.model_copy(update=short),
            "task_specific": None,
            "max_workers": 1,
            "max_trainings": 2,
        }
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    make_world(folder / "world", WORLD, port)
    path = folder / "params.json"
    path.write_text(params.model_dump_json())
    return params, path


def start(params_path: Path, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "rebuild", "--params", str(params_path), "--json"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PREFECT_HOME": str(home)},
    )


def finish(params_path: Path, home: Path) -> dict[str, object]:
    process = start(params_path, home)
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    result: dict[str, object] = json.loads(out.splitlines()[-1])
    return result


def kill_when(happened: Callable[[], bool], params_path: Path, home: Path) -> None:
    process = start(params_path, home)
    until = time.monotonic() + 300
    while not happened():
        if process.poll() is not None:
            pytest.fail(f"the command ended before it could be killed:\n{process.communicate()[1]}")
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent is killed by Linux alone")
def test_killed_twice_it_ends_with_the_undisturbed_table(tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _, whole_params = write_params(whole)
    _, killed_params = write_params(killed)
    undisturbed = finish(whole_params, home)

    def there(pattern: str) -> Callable[[], bool]:
        return lambda: any(killed.glob(pattern))

    for moment in ("features/*/web/train/regions-00002.json", "runs/pretrain-*/checkpoints/step-*"):
        kill_when(there(moment), killed_params, home)
        until = time.monotonic() + 30
        while (alive := naming(str(killed))) and time.monotonic() < until:
            time.sleep(0.1)
        assert not alive
    resumed = finish(killed_params, home)
    assert resumed["table"] == undisturbed["table"]
    assert resumed["outcomes"] == undisturbed["outcomes"]
    assert not list(killed.rglob("*.part"))
