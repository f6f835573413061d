"""A run of a task that answers examples: evaluated, recorded, predicted, and named after its task."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.app import app
from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from flows.params.start import task_finetuning
from flows.params.training import FinetuneParams
from model.config import ExampleSource, LoaderConfig
from model.downstream.tasks import TASKS
from model.finetune import run_finetuning
from model.jobs import FinetuneJob
from model.predict import run_prediction
from tasks.errors import UserError
from tasks.evaluation.history import read_history
from tasks.examples.table import write_examples
from tasks.storage.root import Root
from tasks.training.data import resolve_examples, resolve_features
from tests.counting_task import CountingConfig
from tests.regions import DATASET, EXTRACTOR, FEATURES, SPLIT
from tests.scored import IMAGES, KEYS, publish_data
from tests.toy import TINY

RUN = "finetune-cats-0123456789ab"


def prepare(root: Root, targets: bool = True) -> None:
    rows = [
        {
            "id": f"e{number}",
            "image_keys": [KEYS[number]],
            "texts": ["dog"],
            "target_index": number % 2 if targets else None,
            "raw_id": str(number),
        }
        for number in range(IMAGES)
    ]
    write_examples(root, "cats", DATASET, SPLIT, rows)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    """Pictures, their features and examples, and a run of one step; the program runs in this process."""
    monkeypatch.setitem(TASKS, "cats", "tests.counting_task")
    monkeypatch.setattr("tasks.evaluation.predict.run_module", lambda module, job, *_, **__: run_prediction(job))
    root = Root(str(tmp_path))
    publish_data(root, [(number, f"dog {number}") for number in range(IMAGES)])
    prepare(root)
    words = tmp_path / "vocab.txt"
    words.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ndog\n")
    run = tmp_path / "runs" / RUN
    job = FinetuneJob.model_validate(
        {
            "task": "cats",
            "run_path": str(run),
            "train": ExampleSource(
                features_path=root.path(FEATURES.folder),
                examples_path=root.path(f"datasets/{DATASET}/{SPLIT}/examples.parquet"),
                name=f"{DATASET}/{SPLIT}",
            ),
            "vocabulary_path": str(words),
            "encoder": TINY.model_copy(update={"max_regions": 3}),
            "finetune": {"start": "scratch", "steps": 1, "batch_size": 4, "num_threads": 1, "device": "cpu"},
        }
    )
    assert run_finetuning(job) == 0
    (run / "job.json").write_text(job.model_dump_json())
    return root


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_it_is_evaluated_recorded_and_shown_once(root: Root) -> None:
    given = ("--root", root.uri, "--run", "finetune-cats", "--on", f"{DATASET}/{SPLIT}")
    status, output = call("evaluate", *given)
    assert status == 0, output
    (row,) = read_history(root)
    assert (row.task, row.run, row.setting, row.metrics["examples"]) == ("cats", RUN, "task-specific", IMAGES)
    (page,) = Path(root.uri).glob("scores/*/report.html")
    assert "Accuracy over time" in page.read_text()
    status, output = call("evaluate", *given)
    assert status == 0 and "scored before" in output and len(read_history(root)) == 1
    assert f"task-specific on {DATASET}/{SPLIT}" in call("history", "--root", root.uri)[1]
    status, output = call("predict", *given)
    assert status == 0 and "predictions.parquet (made before)" in output


def test_without_targets_it_is_predicted_and_not_evaluated(root: Root) -> None:
    prepare(root, targets=False)
    given = ("--root", root.uri, "--run", RUN, "--on", f"{DATASET}/{SPLIT}")
    status, output = call("predict", *given)
    assert status == 0 and output.strip().endswith("predictions.parquet")
    status, output = call("evaluate", *given)
    assert status == 2 and "have no targets, so nothing is measured" in output
    assert read_history(root) == []


def test_parameters_take_the_tasks_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "cats", "tests.counting_task")
    demo: RebuildParams = recipe("demo", "data")
    params = task_finetuning(demo, "cats", "mine/train", "pretrain+finetune")
    assert isinstance(params.finetune, CountingConfig) and params.finetune.steps == demo.finetune.steps
    assert (params.spec().task, params.setting) == ("cats", "pretrain+finetune")
    assert FinetuneParams.model_validate_json(params.model_dump_json()) == params
    with pytest.raises(UserError, match="--task cats needs --on DATASET/SPLIT"):
        task_finetuning(demo, "cats", None, "task-specific")
    with pytest.raises(UserError, match="--on names the examples of another task than retrieval"):
        task_finetuning(demo, "retrieval", "mine/train", "task-specific")


def test_other_examples_are_other_data_and_those_of_another_task_are_refused(root: Root) -> None:
    found = resolve_features(root, DATASET, SPLIT, EXTRACTOR, LoaderConfig())
    first = resolve_examples(root, found, "cats").identity
    with pytest.raises(UserError, match="are of task cats, not dots"):
        resolve_examples(root, found, "dots")
    prepare(root, targets=False)
    assert resolve_examples(root, found, "cats").identity["examples"] != first["examples"]
    assert first["features"] == found.identity["features"]
