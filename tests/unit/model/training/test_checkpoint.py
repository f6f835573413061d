import json
import math
import os
import shutil
from fractions import Fraction

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import model.training.checkpoint
from model.config import WordRules
from model.data.store import open_store
from model.data.tokenizer import load_vocabulary
from model.data.word_pieces import save_words
from model.errors import InputError, TrainingError
from model.families.build import build_model
from model.training.checkpoint import (
    CheckpointError,
    Keep,
    State,
    best_checkpoint,
    finish_run,
    list_checkpoints,
    load_model,
    load_training,
    save_checkpoint,
    weights_sha256,
    write_job,
)


@pytest.fixture
def save(eight_pairs, tiny, tmp_path):
    """save(step, measured values) writes a checkpoint of a new model to tmp_path/run."""
    source, vocabulary = eight_pairs
    words = load_vocabulary(vocabulary)
    made = build_model(tiny, open_store(source), words, seed=0)

    def write(step: int, keep: Keep = Keep(), **validation: float):  # noqa: B008
        state = State(step=step, validation=validation)
        return save_checkpoint(tmp_path / "run", state, made, words.words, {}, keep)

    return write


def steps(run) -> list[int]:
    return [checkpoint.step for checkpoint in list_checkpoints(run)]


def test_the_newest_checkpoints_stay(save, tmp_path):
    for step in (5, 10, 15, 20):
        save(step, Keep(last=3))
    assert steps(tmp_path / "run") == [10, 15, 20]


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_files_of_a_checkpoint_are_as_open_as_the_umask_says(save, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = save(5).path
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()}
    assert "model.safetensors" in modes and set(modes.values()) == {mode}


@pytest.mark.parametrize(("largest", "best"), [(True, 10), (False, 15)])
def test_the_best_checkpoint_stays_and_is_the_result(save, tmp_path, largest, best):
    keep = Keep(last=1, best="recall", largest=largest)
    for step, value in ((5, 0.3), (10, 0.7), (15, 0.1), (20, 0.7)):
        save(step, keep, recall=value)
    last = save(25, keep)
    run = tmp_path / "run"
    assert steps(run) == [best, 25]
    finish_run(run, last, keep)
    final = json.loads((run / "final.json").read_text())
    assert (final["step"], final["checkpoint"]) == (best, f"checkpoints/step-{best:07d}")
    assert final["weights_sha256"] == weights_sha256(run / final["checkpoint"])


def test_a_value_that_is_not_finite_is_read_back_and_is_never_the_best(save, tmp_path):
    for step, value in ((5, math.nan), (10, 0.3), (15, math.inf)):
        assert str(save(step, Keep(last=3), recall=value).state().validation["recall"]) == str(value)
    best = best_checkpoint(tmp_path / "run", Keep(best="recall"))
    assert best is not None and best.step == 10


def test_without_a_measured_value_the_last_is_the_result(save, tmp_path):
    keep = Keep(best="recall")
    last = save(5, keep)
    assert best_checkpoint(tmp_path / "run", keep) is None
    finish_run(tmp_path / "run", last, keep)
    assert json.loads((tmp_path / "run" / "final.json").read_text())["step"] == 5


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed"), SafetensorError("I/O error")],
)
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_and_no_trace(save, tmp_path, monkeypatch, error):
    save(5)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(TrainingError, match=r"checkpoints: the checkpoint of step 6 .* goes on from step 5"):
        save(6)
    run = tmp_path / "run"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-0000005"]
    load_model(list_checkpoints(run)[-1].path)


def test_what_a_killed_run_left_half_written_is_no_checkpoint_and_is_cleared_away(save, tmp_path):
    half = tmp_path / "run" / "checkpoints" / ".step-0000003.part"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    assert steps(tmp_path / "run") == []
    save(5)
    assert not half.exists()


def test_a_damaged_or_foreign_checkpoint_is_refused_by_name(save, tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_model(tmp_path)
    path = save(2).path
    file = path / model.training.checkpoint._WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="step-0000002 cannot be loaded"):
        load_model(path)
    (path / "state.json").write_text('{"step": 2, "epoch": 1}')
    with pytest.raises(CheckpointError, match="step-0000002 is of another version"):
        list_checkpoints(tmp_path / "run")[-1].state()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 440449768\n"


def test_a_checkpoint_s_files_that_are_something_else_are_said_to_be_that(save):
    checkpoint = save(5)
    for content, what in ((LFS, "is a Git LFS pointer"), (b"", "is empty"), (b"<html>", "is a web page")):
        (checkpoint.path / "model.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"step-0000005/model\.safetensors {what}"):
            load_model(checkpoint.path)
        (checkpoint.path / "optimizer.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"step-0000005/optimizer\.pt {what}"):
            load_training(checkpoint)
    torch.save({"optimizer": Fraction(1, 2)}, checkpoint.path / "optimizer.pt")
    with pytest.raises(CheckpointError, match=r"more than numbers: .*fractions\.Fraction") as raised:
        load_training(checkpoint)
    assert "weights_only" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_checkpoint_of_weights_that_are_no_numbers_is_refused_by_the_weight(save):
    path = save(5).path
    weights = load_file(path / "model.safetensors")
    weights["matching.weight"][0, 3] = math.nan
    save_file(weights, path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"step-0000005/model\.safetensors has 1 of 32 values of matching\.weight"
    ):
        load_model(path)


def test_a_checkpoint_carries_its_vocabulary_s_rules_and_older_ones_are_lower_casing(save, eight_pairs):
    _, vocabulary = eight_pairs
    path = save(5).path
    assert (path / "vocab.txt").read_text() == vocabulary.read_text()
    assert json.loads((path / "tokenizer_config.json").read_text())["do_lower_case"] is True
    assert load_model(path)[1].digest == load_vocabulary(vocabulary).digest
    (path / "tokenizer_config.json").unlink()
    assert load_model(path)[1].words.rules == WordRules()
    assert load_model(path)[1].digest == load_vocabulary(vocabulary).digest
    (vocabulary.parent / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    save_words(load_vocabulary(vocabulary).words, path)
    cased = load_model(path)[1]
    assert not cased.words.rules.do_lower_case
    assert cased.digest == load_vocabulary(vocabulary).digest
    loaded = AutoTokenizer.from_pretrained(path)
    assert (
        loaded.tokenize("red Red")
        == cased.tokenizer.encode("red Red", add_special_tokens=False).tokens
        == ["red", "[UNK]"]
    )


def test_a_run_killed_while_it_drops_an_old_checkpoint_has_whole_ones_only(save, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die_half_way(folder):
        (folder / "state.json").unlink()
        raise Killed

    keep, run = Keep(last=1, best="recall"), tmp_path / "run"
    save(5, keep, recall=0.3)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", die_half_way)
        save(10, keep, recall=0.7)
    assert steps(run) == [10]
    save(15, keep, recall=0.1)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-0000010", "step-0000015"]


def test_what_resuming_needs_is_refused_by_name_where_it_is_damaged_or_missing(save):
    checkpoint = save(5)
    file = checkpoint.path / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"step-0000005/optimizer\.pt cannot be read.* delete the folder"):
        load_training(checkpoint)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"step-0000005/optimizer\.pt cannot be read.* delete the folder"):
        load_training(checkpoint)
    (checkpoint.path / "state.json").unlink()
    with pytest.raises(CheckpointError, match="step-0000005 lacks its state"):
        checkpoint.state()


def test_other_folders_beside_the_checkpoints_are_none(save, tmp_path):
    save(5)
    (tmp_path / "run" / "checkpoints" / "step-by-hand").mkdir()
    assert steps(tmp_path / "run") == [5]


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"run folder .*file/run cannot be written \(Not a directory\)"):
        write_job(tmp_path / "file" / "run", State(step=0))


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="absent is not a checkpoint"):
        weights_sha256(tmp_path / "absent")
