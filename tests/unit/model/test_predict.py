"""Answering a task's examples: by hand, without targets, resumed, killed, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model import predict
from model.config import ExampleSource, PredictConfig
from model.downstream.example_batches import open_examples
from model.downstream.prediction_parts import part_name, read_predictions
from model.downstream.tasks import TASKS
from model.errors import InputError
from model.finetune import run_finetuning
from model.jobs import FinetuneJob, PredictJob
from model.predict import run_prediction
from model.pretrain import run_pretraining
from model.training.checkpoint import list_checkpoints, load_model
from tasks.examples.table import write_examples
from tasks.storage.root import Root
from tests.counting_task import logits
from tests.toy import TINY

ROOT = Path(__file__).parents[3]
IMAGES = 8
COUNTS = [[image, (image + 1) % 8, (image + 3) % 8].count(3) for image in range(IMAGES)]
"""How many cats (label 3) are in each of the eight pictures."""
START = "import sys\nfrom model.downstream.tasks import TASKS\nTASKS['cats'] = 'tests.counting_task'\n"
PROGRAM = START + (
    "from model.command import run_job\nfrom model.jobs import PredictJob\nfrom model.predict import run_prediction\n"
    "sys.exit(run_job('model.predict', PredictJob, run_prediction))"
)


def table(folder: Path, split: str, count: int = IMAGES, targets: bool = True, first: int = 0) -> Path:
    """Examples about the eight pictures in turn, or from picture `first` on."""
    rows = [
        {
            "id": f"e{number}",
            "image_keys": [f"{first + number % IMAGES:09d}"],
            "texts": ["cat"],
            "target_index": COUNTS[number % IMAGES] if targets else None,
            "raw_id": str(number),
        }
        for number in range(count)
    ]
    write_examples(Root(str(folder)), "cats", "toy", split, rows)
    return folder / f"datasets/toy/{split}/examples.parquet"


@pytest.fixture
def make_job(eight_pairs, tmp_path, monkeypatch):
    """A job on a checkpoint that was finetuned one step."""
    monkeypatch.setitem(TASKS, "cats", "tests.counting_task")
    given, vocabulary = eight_pairs

    def source(path: Path) -> ExampleSource:
        return ExampleSource(features_path=given.features_path, examples_path=str(path), name="toy/test")

    training = {
        "task": "cats",
        "run_path": str(tmp_path / "run"),
        "train": source(table(tmp_path, "train")),
        "vocabulary_path": str(vocabulary),
        "encoder": TINY,
        "finetune": {"start": "scratch", "steps": 1, "batch_size": 4, "num_threads": 1, "device": "cpu"},
    }
    assert run_finetuning(FinetuneJob.model_validate(training)) == 0
    checkpoint = list_checkpoints(tmp_path / "run")[-1].path

    def make(examples: Path, output: str = "out", **changes: int) -> PredictJob:
        return PredictJob(
            output_path=str(tmp_path / output),
            checkpoint_path=str(checkpoint),
            task="cats",
            data=source(examples),
            predict=PredictConfig(device="cpu", num_threads=1, **changes),
        )

    return make


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def test_each_example_is_answered_as_alone_and_measured(make_job, tmp_path):
    job = make_job(table(tmp_path, "test", 19), part_examples=5, batch_size=2)
    assert run_prediction(job) == 0
    ids, scores = read_predictions(tmp_path / "out")
    assert ids == [f"e{number}" for number in range(19)] and scores.shape == (19, 4)
    model, vocabulary = load_model(job.checkpoint_path)
    data = open_examples(job.data, vocabulary, model.config)
    with torch.no_grad():
        alone = np.concatenate([logits(model, data.read(np.array([row]))).numpy() for row in range(19)])
    np.testing.assert_allclose(scores, alone, atol=1e-5, rtol=0)
    right = sum(int(alone[row].argmax()) == COUNTS[row % IMAGES] for row in range(19))
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == {"accuracy": right / 19, "examples": 19}
    assert set(content(tmp_path / "out")) == {"plan.json", "predictions.parquet", "metrics.json"}
    before = content(tmp_path / "out")
    assert run_prediction(job) == 0
    assert content(tmp_path / "out") == before


def test_without_targets_nothing_is_measured(make_job, tmp_path, capsys):
    assert run_prediction(make_job(table(tmp_path, "test", targets=False))) == 0
    assert set(content(tmp_path / "out")) == {"plan.json", "predictions.parquet"}
    assert '"done":8,"total":8,"unit":"examples"' in capsys.readouterr().out


def test_examples_whose_picture_has_no_features_are_left_out_and_named(make_job, tmp_path, caplog):
    assert run_prediction(make_job(table(tmp_path, "test", first=5))) == 0
    assert read_predictions(tmp_path / "out")[0] == ["e0", "e1", "e2"]
    assert "5 of 8 examples are left out" in caplog.text
    with pytest.raises(InputError, match="none of 8 examples has its images among 8 feature records"):
        run_prediction(make_job(table(tmp_path, "test", first=8), "other"))
    assert not (tmp_path / "other").exists()


def test_parts_that_are_there_are_kept(make_job, tmp_path, monkeypatch):
    """Stopped in the third part, and gone on with other sizes: the same bytes as undisturbed."""
    examples = table(tmp_path, "test", 19)
    run_prediction(make_job(examples, "whole", part_examples=4, batch_size=4))
    made = []

    def stop(folder, plan, part, scores):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(part)
        keep(folder, plan, part, scores)

    keep = predict.write_part
    monkeypatch.setattr(predict, "write_part", stop)
    with pytest.raises(KeyboardInterrupt):
        run_prediction(make_job(examples, part_examples=4, batch_size=4))
    assert made == [0, 1]
    times = {part: (tmp_path / "out" / part_name(part)).stat().st_mtime_ns for part in made}
    made.clear()
    monkeypatch.setattr(
        predict, "write_part", lambda folder, plan, part, scores: made.append(part) or keep(folder, plan, part, scores)
    )
    monkeypatch.setattr(predict, "write_predictions", lambda *_: None)
    run_prediction(make_job(examples, part_examples=7, batch_size=4))
    assert made == [2, 3, 4]
    assert times == {part: (tmp_path / "out" / part_name(part)).stat().st_mtime_ns for part in times}
    monkeypatch.undo()
    monkeypatch.setitem(TASKS, "cats", "tests.counting_task")
    run_prediction(make_job(examples, part_examples=4, batch_size=4))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_is_of_something_else_is_refused(make_job, job, tmp_path, monkeypatch):
    examples = table(tmp_path, "test")
    given = make_job(examples)
    run_prediction(given)
    before = content(tmp_path / "out")
    with pytest.raises(InputError, match="holds predictions of another task, weights or data; remove it"):
        run_prediction(make_job(table(tmp_path, "val", 7)))
    assert content(tmp_path / "out") == before
    run_pretraining(job(steps=1).model_copy(update={"run_path": str(tmp_path / "pretrained")}))
    pretrained = str(list_checkpoints(tmp_path / "pretrained")[-1].path)
    fresh = {"output_path": str(tmp_path / "fresh")}
    with pytest.raises(
        InputError, match=r"has no head 'cats', only .*: it was not finetuned for cats; name a checkpoint"
    ):
        run_prediction(given.model_copy(update=fresh | {"checkpoint_path": pretrained}))
    with pytest.raises(InputError, match=r"task 'retrieval' answers no table of examples; score it with model.scoring"):
        run_prediction(given.model_copy(update=fresh | {"task": "retrieval"}))
    schema = pq.read_schema(examples)
    pq.write_table(pq.read_table(examples).replace_schema_metadata({"format": "examples/9"}), examples)
    with pytest.raises(InputError, match=r"examples.parquet says examples/9, not examples/1"):
        run_prediction(given.model_copy(update=fresh))
    pq.write_table(pa.table({"id": ["a"]}).replace_schema_metadata(schema.metadata), examples)
    with pytest.raises(InputError, match=r"examples.parquet has no column image_keys"):
        run_prediction(given.model_copy(update=fresh))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"model.predict is one process; start it by python -m model.predict"):
        run_prediction(given.model_copy(update=fresh))
    assert not (tmp_path / "fresh").exists()


def test_examples_of_which_some_have_targets_are_named(make_job, tmp_path):
    rows = [
        {"id": name, "image_keys": ["000000001"], "texts": ["cat"], "target_index": target, "raw_id": name}
        for name, target in (("a", 1), ("b", None))
    ]
    write_examples(Root(str(tmp_path)), "cats", "toy", "test", rows)
    with pytest.raises(
        InputError, match="1 of 2 examples have no target_index, the first is b, so nothing is measured"
    ):
        run_prediction(make_job(tmp_path / "datasets/toy/test/examples.parquet"))


@pytest.mark.slow("kills and goes on, process by process")
def test_killed_while_predicting_it_loses_no_part(make_job, tmp_path):
    """kill -9 twice on the way: parts that were there stay untouched, and the end is what an undisturbed run makes."""
    job = make_job(table(tmp_path, "test", 1600), part_examples=4, batch_size=1)
    path, folder = tmp_path / "job.json", tmp_path / "out"
    path.write_text(job.model_dump_json())

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--config", str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def parts() -> dict[str, tuple[int, bytes]]:
        return {one.name: (one.stat().st_mtime_ns, one.read_bytes()) for one in folder.glob("scores-*.npy")}

    standing: dict[str, tuple[int, bytes]] = {}
    for _ in range(2):
        process, until = start(), time.monotonic() + 120
        while len(list(folder.glob("scores-*.npy"))) < len(standing) + 3:
            assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        now = parts()
        assert len(now) < 400 and not (folder / "predictions.parquet").exists()
        assert {name: now[name] for name in standing} == standing
        standing = now
    process = start()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f'"total":{1600 - 4 * len(standing)},' in output
    undisturbed = job.model_copy(update={"output_path": str(tmp_path / "undisturbed")})
    assert run_prediction(undisturbed) == 0
    assert content(folder) == content(tmp_path / "undisturbed")
