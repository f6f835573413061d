"""A run is found by its name, with a checkpoint of it and the features that it can read; errors name what there is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.records import FileDigest, Receipt, Stage
from tasks.storage.digests import file_sha256
from tasks.storage.paths import captions_receipt_path, feature_manifest_path
from tasks.storage.root import Root
from tasks.training.runs import (
    CheckpointChoice,
    checkpoint_choice,
    checkpoint_extractor,
    choose_checkpoint,
    data_for,
    features_on,
    find_run,
    run_names,
)

EXTRACTOR = "e" * 64


def add_run(root: Root, name: str, job: dict[str, Any], steps: tuple[int, ...], result: int | None = None) -> None:
    """What a run leaves behind, as far as it is read here; `result` is the step of a complete run's result."""
    folder = f"runs/{name}"
    root.publish_bytes(f"{folder}/job.json", json.dumps({"run_path": "elsewhere", **job}).encode())
    for step in steps:
        checkpoint = f"{folder}/checkpoints/step-{step:07d}"
        root.publish_bytes(f"{checkpoint}/model.safetensors", f"weights of step {step}".encode())
        root.publish_bytes(f"{checkpoint}/config.json", json.dumps({"extractor": EXTRACTOR, "vocab_size": 5}).encode())
    if result is not None:
        final = {"step": result, "checkpoint": f"checkpoints/step-{result:07d}", "weights_sha256": f"sha-{result}"}
        root.publish_bytes(f"{folder}/final.json", json.dumps(final).encode())


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path))
    add_run(root, "pretrain-aa11", {"pretrain": {"seed": 3, "steps": 9}}, (100, 200))
    add_run(root, "finetune-bb22", {"finetune": {"seed": 4, "start": "pretrained"}}, (5, 10, 15), result=10)
    add_run(root, "finetune-bc33", {"finetune": {"seed": 5, "start": "scratch"}}, ())
    for split in ("test", "val"):
        root.publish_bytes(feature_manifest_path(EXTRACTOR, "retrieval", split), b"{}")
    root.publish_bytes(f"features/{EXTRACTOR[:12]}/extractor.json", b"{}")
    root.publish_bytes(f"features/{EXTRACTOR[:12]}/web/train/regions-00000.tar", b"not all of it yet")
    root.publish_bytes(feature_manifest_path("f" * 64, "retrieval", "dev"), b"{}")
    return root


@pytest.mark.parametrize(
    ("name", "stage", "setting", "seed"),
    [
        ("pretrain-aa11", Stage.PRETRAIN, "zero-shot", 3),
        ("finetune-bb22", Stage.FINETUNE, "pretrain+finetune", 4),
        ("finetune-bc33", Stage.FINETUNE, "task-specific", 5),
    ],
)
def test_a_run_says_what_it_is(root: Root, name: str, stage: Stage, setting: str, seed: int) -> None:
    run = find_run(root, name)
    assert (run.name, run.stage, run.setting, run.seed) == (name, stage, setting, seed)


def test_the_beginning_of_a_name_is_enough_where_one_run_begins_so(root: Root) -> None:
    assert find_run(root, "finetune-bb").name == "finetune-bb22"
    with pytest.raises(UserError, match=r"2 runs begin with 'finetune-b' .* there are finetune-bb22, finetune-bc33$"):
        find_run(root, "finetune-b")
    add_run(root, "finetune-bb", {"finetune": {"seed": 6}}, ())
    assert find_run(root, "finetune-bb").seed == 6  # a whole name is meant


def test_an_unknown_run_is_told_with_those_there_are(root: Root, tmp_path: Path) -> None:
    for name in ("pretrain-zz", ""):
        with pytest.raises(UserError, match=r"no run .* there are finetune-bb22, finetune-bc33, pretrain-aa11$"):
            find_run(root, name)
    with pytest.raises(UserError, match="none was begun there: run `unicoder-vl pretrain`"):
        find_run(Root(str(tmp_path / "empty")), "pretrain-aa11")


def test_of_very_many_runs_some_are_named(root: Root) -> None:
    for number in range(30):
        add_run(root, f"sweep-{number:02d}", {"pretrain": {"seed": 0}}, ())
    with pytest.raises(UserError, match=r"pretrain-aa11, sweep-00, .* and 13 more$"):
        find_run(root, "absent")


def test_a_removed_run_is_not_found_any_more(root: Root, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "runs/pretrain-aa11")
    assert run_names(root) == ["finetune-bb22", "finetune-bc33"]
    with pytest.raises(UserError, match="no run 'pretrain-aa11'"):
        find_run(root, "pretrain-aa11")


def test_a_moved_root_still_finds_its_runs(root: Root, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "runs", tmp_path / "moved/runs")
    moved = Root(str(tmp_path / "moved"))
    found = choose_checkpoint(moved, find_run(moved, "finetune-bb22"), "result")
    assert found.uri == str(tmp_path / "moved/runs/finetune-bb22/checkpoints/step-0000010")


def test_the_result_is_what_the_run_says_and_the_newest_has_the_most_steps(root: Root) -> None:
    run = find_run(root, "finetune-bb22")
    result, newest, named = (choose_checkpoint(root, run, choice) for choice in ("result", "newest", 5))
    assert (result.step, result.fingerprint, result.stage) == (10, "sha-10", Stage.FINETUNE)
    assert (newest.step, named.step) == (15, 5)
    assert newest.fingerprint == file_sha256(f"{newest.uri}/model.safetensors", "weights")
    assert choose_checkpoint(root, run, 10) == result


def test_a_run_under_way_has_a_newest_checkpoint_and_no_result(root: Root) -> None:
    run = find_run(root, "pretrain-aa11")
    assert choose_checkpoint(root, run, "newest").step == 200
    with pytest.raises(UserError, match="not a complete run; it has checkpoints of step 100, 200: take --checkpoint"):
        choose_checkpoint(root, run, "result")


@pytest.mark.parametrize("choice", ["result", "newest", 5])
def test_a_run_without_checkpoints_says_so(root: Root, choice: CheckpointChoice) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        choose_checkpoint(root, find_run(root, "finetune-bc33"), choice)


def test_a_checkpoint_that_is_gone_is_told_with_the_steps_there_are(root: Root, tmp_path: Path) -> None:
    run = find_run(root, "finetune-bb22")
    (tmp_path / "runs/finetune-bb22/checkpoints/step-0000010/model.safetensors").unlink()
    with pytest.raises(UserError, match=r"the result of finetune-bb22, step 10, is not there: .* of step 5, 15;"):
        choose_checkpoint(root, run, "result")
    with pytest.raises(UserError, match="at step 11 is not there: it has checkpoints of step 5, 15;"):
        choose_checkpoint(root, run, 11)
    with pytest.raises(UserError, match=r"config\.json is not there; choose another checkpoint"):
        newest = choose_checkpoint(root, run, "newest")
        shutil.rmtree(newest.uri)
        checkpoint_extractor(root, newest)


def test_a_half_written_checkpoint_is_none(root: Root) -> None:
    root.publish_bytes("runs/finetune-bb22/checkpoints/.step-0000020.part/model.safetensors", b"half")
    assert choose_checkpoint(root, find_run(root, "finetune-bb22"), "newest").step == 15


@pytest.mark.parametrize("text", ["result", "newest", "0", "5000"])
def test_a_choice_reads_back(text: str) -> None:
    assert str(checkpoint_choice(text)) == text


@pytest.mark.parametrize("text", ["best", "-1", "1.5", "", "step-0000005"])
def test_another_choice_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="it is result, newest or a step such as 5000"):
        checkpoint_choice(text)


def test_finished_features_of_the_extractor_are_listed(root: Root) -> None:
    checkpoint = choose_checkpoint(root, find_run(root, "finetune-bb22"), "result")
    assert checkpoint_extractor(root, checkpoint) == EXTRACTOR
    assert features_on(root, EXTRACTOR) == ["retrieval/test", "retrieval/val"]
    assert features_on(root, "0" * 64) == []


def test_data_of_another_extractor_or_half_made_is_refused_with_what_there_is(root: Root) -> None:
    checkpoint = choose_checkpoint(root, find_run(root, "finetune-bb22"), "result")
    for dataset, split in (("retrieval", "dev"), ("web", "train")):
        with pytest.raises(UserError, match=rf"{dataset}/{split} has no finished .* of retrieval/test, retrieval/val:"):
            data_for(root, checkpoint, dataset, split)


def test_data_needs_its_captions(root: Root) -> None:
    checkpoint = choose_checkpoint(root, find_run(root, "finetune-bb22"), "result")
    with pytest.raises(UserError, match=r"retrieval/test has no captions .* `unicoder-vl download`"):
        data_for(root, checkpoint, "retrieval", "test")
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset="retrieval",
        split="test",
        shard=0,
        fingerprint="f",
        counts={"ok": 1},
        files={"captions.parquet": FileDigest(bytes=1, sha256="c")},
        seconds=0,
        created_at="2026-01-01T00:00:00+00:00",
    )
    root.publish_model(captions_receipt_path("retrieval", "test"), receipt)
    source = data_for(root, checkpoint, "retrieval", "test").source
    assert (source.name, source.features_path) == (
        "retrieval/test",
        root.path(f"features/{EXTRACTOR[:12]}/retrieval/test"),
    )
