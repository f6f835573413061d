"""Captions and images that read alike tie exactly, and a tie counts against the model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.data.captions import load_captions
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.downstream.retrieval.alike import first_alike, image_digests
from model.downstream.retrieval.blocks import score_split
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.metrics import retrieval_metrics
from model.downstream.retrieval.pairs import PairScorer
from model.downstream.retrieval.scores import Scores, WholeMatrix, block_name
from model.downstream.retrieval.search import Ranker
from model.families.build import build_model
from model.jobs import ScoreJob
from model.scoring import run_scoring
from tests.toy import WORDS, make_sample, write_feature_set

CPU = torch.device("cpu")
PICTURES = [([0, 1], 1), ([2, 3, 4], 2), ([0, 1], 1), ([], 3), ([2, 3], 2), ([], 4), ([2, 3, 4], 2), ([0, 1], 5)]
"""Labels and seed: 2 reads as 0, 6 as 1, and the two without regions as each other, whatever else is of them."""
ALIKE = [0, 1, 0, 3, 4, 3, 1, 7]
TEXTS = [WORDS[n % 3] for n in range(8)] + ["Red", "zebra", "okapi", "red cat dog", "red cat dog bird tree car red"]
"""The eight of the images' order, and more of image 0. What the vocabulary does not know, or the end cuts, is alike."""
SAME = [0, 1, 2, 0, 1, 2, 0, 1, 0, 9, 9, 11, 12]


@pytest.fixture
def world(make_world, tiny, tmp_path):
    """Some images and some captions that read alike: a model, its data, its vocabulary file."""
    captions = list(enumerate(TEXTS[:8])) + [(0, text) for text in TEXTS[8:]]
    source, vocabulary = make_world([[0]] * 8, captions)
    samples = [make_sample(f"{n:09d}", labels, 24, seed) for n, (labels, seed) in enumerate(PICTURES)]
    write_feature_set(tmp_path / "features", samples, per_shard=3, regions=5, dim=24)
    store, words = FeatureStore(source.features_path), load_vocabulary(vocabulary)
    captions = load_captions(source, store)
    tokens = tokenize(words, captions.texts, tiny.max_text_tokens)
    return build_model(tiny, store, words, seed=2).eval(), store, captions, tokens, vocabulary, source


def test_the_first_alike_is_found(world):
    _, store, _, tokens, *_ = world
    assert first_alike(tokens[n].tobytes() for n in range(len(tokens))).tolist() == SAME
    assert first_alike(image_digests(store.read(range(8), 4))).tolist() == ALIKE
    # With two regions, an image of three reads as another that has its first two.
    assert first_alike(image_digests(store.read(range(8), 1))).tolist() == [0, 1, 0, 3, 4, 3, 1, 7]
    assert first_alike([]).tolist() == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_what_reads_alike_ties_exactly(world, precision, batch_size):
    model, store, captions, tokens, *_ = world
    # Images that are alike lie in one block and in several.
    for block_pairs in (13, 39, 1000):
        config = ScoringConfig(batch_size=batch_size, block_pairs=block_pairs, precision=precision)
        scores = score_split(model, store, captions, tokens, config, CPU)
        assert np.array_equal(scores, scores[ALIKE][:, SAME])
        # And all else is told apart.
        assert len(np.unique(scores[sorted(set(ALIKE))][:, sorted(set(SAME))])) == 5 * 6


def test_captions_that_read_alike_are_scored_once_and_counted_each(world, monkeypatch):
    model, store, _, tokens, *_ = world
    honest, passes = PairScorer._score_batch, []

    def counting(self, images, captions, closing, rows, *more):
        passes.append(len(rows))
        return honest(self, images, captions, closing, rows, *more)

    monkeypatch.setattr(PairScorer, "_score_batch", counting)
    scorer, told = PairScorer(model, ScoringConfig(batch_size=4), CPU), []
    texts = [tokens[n] for n in range(len(tokens))]
    whole = scorer.score(store.read(range(8), 4), texts, on_pairs=told.append)
    assert sum(passes) == 8 * len(set(SAME)) and sum(told) == 8 * len(texts)
    # What is wanted of one that reads as another is not given for the other.
    wanted = np.zeros(whole.shape, np.bool_)
    wanted[0, [3, 6, 12]], wanted[5, 10] = True, True
    passes.clear(), told.clear()
    some = scorer.score(store.read(range(8), 4), texts, wanted, told.append)
    assert (sum(passes), sum(told)) == (3, 4)
    assert np.array_equal(np.isfinite(some), wanted) and some[0, 3] == some[0, 6]
    np.testing.assert_allclose(some[wanted], whole[wanted], atol=1e-5, rtol=0)


def test_captions_that_all_read_alike_find_nothing(world, tiny):
    """Every caption of every image is tied, so that none is ahead of another: recall at k is 0 while k is below all."""
    model, store, captions, tokens, vocabulary, _ = world
    alike = tokenize(load_vocabulary(vocabulary), ["red cat"] * len(tokens), tiny.max_text_tokens)
    for precision in ("fp32", "bf16"):
        config = ScoringConfig(batch_size=5, precision=precision)
        scores = score_split(model, store, captions, alike, config, CPU)
        assert (scores == scores[:, :1]).all()
        recall = retrieval_metrics(WholeMatrix(scores), captions.image_of).image_to_text_recall
        assert (recall[1], recall[5]) == (0, 0)


@pytest.fixture
def score_job(world, tiny, tmp_path):
    model, *_, vocabulary, source = world
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())

    def make(output: str = "scores", **changes) -> ScoreJob:
        scoring = ScoringConfig(**{"num_threads": 1, "block_pairs": 26, "batch_size": 7, **changes})
        return ScoreJob(output_path=str(tmp_path / output), checkpoint_path=str(folder), data=source, scoring=scoring)

    return make


def whole(folder: Path) -> np.ndarray:
    return np.concatenate([block for _, block in Scores(folder).blocks()])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_on_disk_tie_over_the_borders_of_blocks(score_job, tmp_path, precision):
    run_scoring(score_job(precision=precision))
    scores, folder = whole(tmp_path / "scores"), tmp_path / "scores"
    assert len(list(folder.glob("scores-*.npy"))) == 4
    assert np.array_equal(scores, scores[ALIKE][:, SAME])
    assert np.array_equal(Scores(folder).of_image(6), scores[1])
    assert np.array_equal(Scores(folder).of_caption(3), scores[:, 0])
    # A block that is made again, and of another first row, changes nothing.
    (folder / block_name(0)).unlink()
    run_scoring(score_job(precision=precision))
    assert np.array_equal(whole(folder), scores)


def test_a_shortlist_treats_alike_what_reads_alike(score_job, tmp_path):
    run_scoring(score_job(shortlist={"size": 10, "regions": 2}))
    scores = whole(tmp_path / "scores")
    assert np.array_equal(scores, scores[ALIKE][:, SAME])


def test_scores_of_an_older_program_are_read_as_they_are(score_job, tmp_path):
    run_scoring(score_job())
    folder = tmp_path / "scores"
    with np.load(folder / "items.npz") as items:
        older = {name: items[name] for name in items.files if name != "first_alike"}
    np.savez(folder / "items.npz", **older)
    stored = np.concatenate([np.load(folder / block_name(block)) for block in range(4)])
    assert np.array_equal(whole(folder), stored)
    assert run_scoring(score_job()) == 0


def test_a_search_ranks_captions_that_read_alike_in_their_order(world, monkeypatch):
    model, store, captions, _, vocabulary, _ = world
    monkeypatch.setattr("model.downstream.retrieval.search._CAPTIONS_AT_ONCE", 2)
    told = []
    ranker = Ranker(model, load_vocabulary(vocabulary), store, captions, ScoringConfig(batch_size=3), CPU)
    ranking = ranker.captions(lambda most: store.read([1], most), lambda done, total: told.append((done, total)))
    by_row = dict(zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True))
    assert [by_row[row] for row in range(13)] == [by_row[first] for first in SAME]
    places = ranking.rows.tolist()
    assert sorted(places) == list(range(13))
    assert [row for row in places if SAME[row] == 0] == [0, 3, 6, 8]
    assert told[-1] == (13, 13)
