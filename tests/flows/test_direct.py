"""Training where no Prefect server is configured: without Prefect, and ended in order by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.params.training import FinetuneParams, PretrainParams
from model.downstream.retrieval.config import FinetuneConfig
from model.objectives.config import PretrainConfig
from tasks.storage.root import Root
from tests.processes import of_session
from tests.searchable import DATASET, ENCODER, EXTRACTOR, SPLIT, make_searchable

REPOSITORY = Path(__file__).parents[2]
COMMAND = """
import sys, typer
from pathlib import Path
from flows.commands.shared import exit_codes
from flows.params.experiment import PretrainParams
from flows.commands.run_stage import run_stage

app = typer.Typer()

@app.command()
def pretrain(params: Path):
    with exit_codes():
        checkpoint = run_stage("pretrain", PretrainParams.model_validate_json(params.read_bytes()))
        print(checkpoint.step, "prefect" in sys.modules, "torch" in sys.modules)

app()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return make_searchable(tmp_path_factory.mktemp("searchable"))


def training(root: Root, steps: int) -> PretrainParams:
    loop = PretrainConfig(
        steps=steps, batch_size=4, log_steps=1, checkpoint_steps=1_000_000, device="cpu", num_threads=1
    )
    return PretrainParams(
        root_uri=root.uri,
        dataset=DATASET,
        split=SPLIT,
        extractor=EXTRACTOR,
        vocabulary_path=str(Path(root.uri).parent / "vocab.txt"),
        encoder=ENCODER,
        pretrain=loop,
    )


def start(params: PretrainParams, folder: Path) -> subprocess.Popen[str]:
    path = folder / "params.json"
    path.write_text(params.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        start_new_session=True,
    )


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent is killed by Linux alone")
@pytest.mark.parametrize(("number", "send"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)])
def test_a_signal_ends_training_with_a_checkpoint_a_sentence_and_its_own_code(
    number: signal.Signals, send: Callable[[int, int], None], root: Root, tmp_path: Path
) -> None:
    params = training(root, steps=500_000 + number)
    process = start(params, tmp_path)
    before = set(Path(root.uri).glob("runs/pretrain-*/metrics.jsonl"))

    def begun() -> set[Path]:
        return set(Path(root.uri).glob("runs/pretrain-*/metrics.jsonl")) - before

    wait_until(lambda: any(path.stat().st_size for path in begun()), process)
    send(process.pid, number)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors and not out
    assert errors.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert not of_session(process.pid)
    (run,) = begun()
    assert list((run.parent / "checkpoints").glob("step-*/model.safetensors"))


def test_what_is_done_is_found_done_without_prefect_or_torch(root: Root, tmp_path: Path) -> None:
    params = training(root, steps=1)
    for _ in range(2):
        process = start(params, tmp_path)
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert out.split() == ["1", "False", "False"]
    assert errors.splitlines()[-1].endswith("already done, 1 steps")


def test_of_two_trainings_the_second_waits_for_the_first_and_ends_with_its_error(root: Root) -> None:
    from flows.steps.direct import trainings_directly
    from tasks.errors import UserError
    from tasks.records import Stage

    params = training(root, steps=1).model_copy(update={"vocabulary_path": "absent.txt"})
    finetuning = FinetuneParams(
        **params.model_dump(exclude={"pretrain", "validation_split", "nodes"}),
        finetune=FinetuneConfig(steps=1),
        pretraining=params,
    )
    with trainings_directly(1) as submit:
        first = submit(Stage.PRETRAIN, params, [])
        second = submit(Stage.FINETUNE, finetuning, [first])
        errors = []
        for future in (first, second):
            with pytest.raises(UserError, match=r"absent\.txt") as caught:
                future.result()
            errors.append(caught.value)
    assert errors[0] is errors[1]
