"""Batches of several corpora, and what the metrics say of each."""

import json

import pytest
import torch

from model.command import open_data
from model.data.order import Part
from model.data.tokenizer import load_vocabulary
from model.errors import InputError
from model.objectives.config import PretrainConfig
from model.objectives.corpora import CorporaBatches, Corpus, PretrainingWatch, check_alike
from model.objectives.turns import Turns
from model.pretrain import run_pretraining
from tests.toy import WORDS

SHARES = {"sbu/train": 1, "toy/train": 2}


@pytest.fixture
def corpora(eight_pairs, make_world, tiny):
    source, path = eight_pairs
    other, _ = make_world([[i] for i in range(5)], [(i, WORDS[i]) for i in range(5)], name="sbu/train")
    vocabulary = load_vocabulary(path)
    opened = [Corpus(one.name, *open_data(one, vocabulary, tiny)) for one in (other, source)]
    return opened, vocabulary


def test_each_corpus_is_read_in_its_own_order_whatever_else_is_read(corpora, tiny):
    opened, vocabulary = corpora

    def make(shares):
        return PretrainConfig(batch_size=4, corpora=shares, objectives={"mlm": 1})

    few, often = make(SHARES), make({"sbu/train": 7, "toy/train": 1})
    batches = [CorporaBatches(opened, vocabulary, tiny.max_regions, config) for config in (few, often)]
    seen = [dict[tuple[int, int], list[list[int]]]() for _ in batches]
    for config, make_batch, found in zip((few, often), batches, seen, strict=True):
        turns = Turns(config)
        for step in range(40):
            turn, batch = turns(step), make_batch(step)
            assert batch.corpus.tolist() == [float(number == turn.corpus) for number in range(2)]
            found[turn.corpus, turn.visit] = batch.words.ids.tolist()
            parts = [make_batch(step, Part(number, 2)).counts for number in range(2)]
            assert torch.equal(sum(parts), batch.counts) and len(batch.counts) == 2
    common = seen[0].keys() & seen[1].keys()
    assert len({corpus for corpus, _ in common}) == 2 and all(seen[0][turn] == seen[1][turn] for turn in common)


def test_corpora_of_different_extractors_are_refused_by_name(corpora, make_world, tiny):
    (sbu, toy), vocabulary = corpora
    check_alike([sbu, toy], tiny.max_regions)
    wider, _ = make_world([[0], [1]], [(0, "red"), (1, "blue")], dim=32, name="wide/train")
    wide = Corpus("wide/train", *open_data(wider, vocabulary, tiny))
    with pytest.raises(InputError, match="sbu/train has features of width 24, but wide/train 32"):
        check_alike([sbu, toy, wide], tiny.max_regions)
    manifest = toy.store.manifest
    for changes, message in (
        ({"extractor": "f" * 64}, "features of extractor eeeeeeeeeeee, but toy/train ffffffffffff"),
        ({"labels": (*WORDS[:-1], "bus")}, "label 7 is 'car' in sbu/train, but 'bus' in toy/train"),
        ({"labels": tuple(WORDS[:-1])}, "a number of labels of 8, but toy/train 7"),
        ({"max_regions": 3}, "encoder.max_regions=4, but toy/train holds at most 3 regions"),
    ):
        toy.store.manifest = manifest.model_copy(update=changes)
        with pytest.raises(InputError, match=message):
            check_alike([sbu, toy], tiny.max_regions)


def test_metrics_say_what_each_corpus_gave_and_what_all_did():
    config = PretrainConfig(combine="draw", corpora=SHARES, objectives={"mlm": 1, "vlm": 1})
    means = {"loss": 9.0, "sbu/train/mlm": 2.0, "sbu/train/mlm_accuracy": 0.5, "toy/train/mlm": 4.0}
    means |= {"toy/train/mlm_accuracy": 0.25, "toy/train/vlm": 3.0, "toy/train/vlm_accuracy": 0.6}
    targets = {"sbu/train/mlm": 30.0, "sbu/train/vlm": 0.0, "toy/train/mlm": 10.0, "toy/train/vlm": 5.0}
    added = PretrainingWatch(config)(6, means, targets)
    visits = Turns(config).visits(6)
    assert added == {
        "mlm": 2.5,  # (30 x 2 + 10 x 4) / 40
        "mlm_accuracy": 0.4375,
        "vlm": 3.0,
        "vlm_accuracy": pytest.approx(0.6),
        "loss": 5.5,
        "sbu/train/steps": visits[0],
        "toy/train/steps": visits[1],
    }


def test_a_run_on_two_corpora_resumes_to_the_same_weights_and_names_both(job, corpora, make_world, tmp_path):
    other, _ = make_world([[i] for i in range(5)], [(i, WORDS[i]) for i in range(5)], name="sbu/train")

    def both(run, **changes):
        return job(run, corpora=SHARES, **changes).model_copy(update={"also": (other,)})

    assert run_pretraining(both("whole")) == 0
    folder = tmp_path / "whole" / "checkpoints"
    # As if the run had been killed after step 10.
    for path in sorted((folder / "step-0000012").iterdir()):
        path.unlink()
    (folder / "step-0000012").rmdir()
    weights = tmp_path / "whole" / "final.json"
    first = json.loads(weights.read_text())["weights_sha256"]
    weights.unlink()
    assert run_pretraining(both("whole")) == 0
    assert json.loads(weights.read_text())["weights_sha256"] == first
    state = json.loads((folder / "step-0000012" / "state.json").read_text())
    assert state["identity"]["train"].keys() == {"sbu/train", "toy/train"}
    with pytest.raises(InputError, match=r"belongs to another run: pretrain\.corpora"):
        run_pretraining(job("whole", corpora={"sbu/train": 3, "toy/train": 2}).model_copy(update={"also": (other,)}))
    with pytest.raises(
        InputError, match=r"pretrain\.corpora are sbu/train, toy/train, but the job's data is toy/train"
    ):
        run_pretraining(job("fewer", corpora=SHARES))
