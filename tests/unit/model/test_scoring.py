"""Scoring all pairs: against a slow twin, resumed, killed, by several processes, and by a shortlist."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.data.batch import pad_words
from model.data.captions import load_captions
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.downstream.retrieval.blocks import score_split
from model.downstream.retrieval.config import ScoringConfig, Shortlist
from model.downstream.retrieval.pairs import PairScorer
from model.downstream.retrieval.scores import Scores, block_name
from model.errors import InputError
from model.families.build import build_model
from model.families.embeddings import dequantise
from model.jobs import ScoreJob
from model.pretrain import run_pretraining
from model.scoring import run_scoring
from model.training.checkpoint import list_checkpoints

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
WORDS = ["red", "blue", "green", "cat", "dog", "bird", "tree", "car"]
LABELS = [[0, 1], [2, 3, 4], [5], [6, 7, 0, 1], [], [3]]
CAPTIONS = [(n % 6, " ".join(WORDS[n % 8 :][: 1 + n % 4] + WORDS[: n % 3])) for n in range(20)]


@pytest.fixture
def uneven(make_world, tiny):
    """Six images of no to four regions, and twenty captions of three to eight word pieces: a model, its data, texts."""
    source, path = make_world(LABELS, CAPTIONS)
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, tiny.max_text_tokens)
    return build_model(tiny, store, vocabulary, seed=2).eval(), store, captions, tokens


@pytest.fixture
def plain(uneven):
    """Each pair by itself, both sides embedded, no batch, no padding, the last layer whole."""
    model, store, captions, tokens = uneven
    scores = np.empty((len(captions.images), len(tokens)), np.float32)
    with torch.no_grad():
        for row, image in enumerate(captions.images):
            for column in range(len(tokens)):
                regions = store.read([image], model.bert.max_regions)
                words = pad_words([tokens[column]], 0)
                texts = model.bert.embed_words(words)
                states = model.bert.join(texts, model.bert.embed_regions(regions, dequantise(regions)))
                mask = model.bert.join_masks(words.mask, regions.mask)
                scores[row, column] = float(model.match(model.bert.run(states, mask)[:, 0]))
    return scores


@pytest.mark.parametrize("sequences", ["auto", "padded", "packed"])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_a_score_depends_on_its_pair_alone(uneven, plain, batch_size, sequences, monkeypatch):
    model, store, captions, tokens = uneven
    model.bert.config = model.config.model_copy(update={"sequences": sequences})
    for block_pairs in (1, 45, 10_000):
        config = ScoringConfig(batch_size=batch_size, block_pairs=block_pairs)
        scores = score_split(model, store, captions, tokens, config, CPU)
        np.testing.assert_allclose(scores, plain, atol=1e-5, rtol=0)
    # Captions are taken some at a time; the borders are nowhere to be seen.
    monkeypatch.setattr("model.downstream.retrieval.pairs._CAPTIONS_AT_ONCE", 6)
    monkeypatch.setattr("model.downstream.retrieval.pairs._IMAGES_AT_ONCE", 2)
    np.testing.assert_allclose(score_split(model, store, captions, tokens, config, CPU), plain, atol=1e-5, rtol=0)


def test_only_wanted_pairs_are_scored(uneven, plain):
    model, store, captions, tokens = uneven
    wanted = np.random.default_rng(0).random(plain.shape) < 0.3
    wanted[2] = False
    counted = []
    scorer = PairScorer(model, ScoringConfig(batch_size=8), CPU)
    texts = [tokens[column] for column in range(len(tokens))]
    scores = scorer.score(store.read(captions.images, 4), texts, wanted, counted.append)
    np.testing.assert_allclose(scores[wanted], plain[wanted], atol=1e-5, rtol=0)
    assert np.isneginf(scores[~wanted]).all()
    assert sum(counted) == wanted.sum()


def test_a_batch_that_does_not_fit_is_halved(uneven, plain, monkeypatch, caplog):
    model, store, captions, tokens = uneven
    honest, fits = PairScorer._score_batch, 3

    def small_memory(self, images, texts, closing, rows, *more):
        if len(rows) > fits:
            raise torch.OutOfMemoryError("no")
        return honest(self, images, texts, closing, rows, *more)

    monkeypatch.setattr(PairScorer, "_score_batch", small_memory)
    scores = score_split(model, store, captions, tokens, ScoringConfig(batch_size=16), CPU)
    np.testing.assert_allclose(scores, plain, atol=1e-5, rtol=0)
    assert "from now on 2 pairs a pass" in caplog.text
    fits = 0
    with pytest.raises(InputError, match="one pair does not fit in the memory of cpu"):
        score_split(model, store, captions, tokens, ScoringConfig(batch_size=16), CPU)


@pytest.fixture
def score_job(job, tmp_path):
    """A job on a trained checkpoint of the eight pairs: eight images, a caption each, one image a block."""
    run_pretraining(job(steps=1))
    checkpoint = list_checkpoints(Path(job().run_path))[-1].path

    def make(output: str = "scores", **changes) -> ScoreJob:
        fields = {"num_threads": 1, "block_pairs": 8, **changes}
        return ScoreJob(
            output_path=str(tmp_path / output),
            checkpoint_path=str(checkpoint),
            data=job().train,
            scoring=ScoringConfig(**fields),
        )

    return make


def whole(folder: Path) -> np.ndarray:
    return np.concatenate([block for _, block in Scores(folder).blocks()])


def test_blocks_that_stand_are_not_scored_again(score_job, tmp_path):
    folder = tmp_path / "scores"
    assert run_scoring(score_job()) == 0
    first, metrics = whole(folder), (folder / "metrics.json").read_bytes()
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert len(times) == 8
    lost = [block_name(2), block_name(7)]
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"lacks 2 of 8 blocks of scores, scores-00002.npy for one"):
        Scores(folder)
    # Another size of blocks does not matter to the blocks that stand.
    assert run_scoring(score_job(block_pairs=1000, batch_size=3)) == 0
    np.testing.assert_allclose(whole(folder), first, atol=1e-6, rtol=0)
    assert (folder / "metrics.json").read_bytes() == metrics
    again = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert {name for name in times if again[name] != times[name]} == set(lost)


def test_other_protocols_are_measured_on_the_scores_that_stand(score_job, tmp_path):
    run_scoring(score_job())
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scores").glob("*.npy")}
    run_scoring(score_job(protocols=("folds:4", "all", "first:2")))
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scores").glob("*.npy")}
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert (metrics["protocol"], metrics["folds"]) == ("folds:4", 2)
    assert [other["protocol"] for other in metrics["also"]] == ["all", "first:2"]
    assert metrics["also"][1]["images"] == 2


def test_scores_of_other_weights_are_not_mixed(score_job, job, tmp_path):
    run_scoring(score_job())
    run_pretraining(job("other", steps=2))
    other = str(list_checkpoints(tmp_path / "other")[-1].path)
    with pytest.raises(InputError, match="holds scores of other weights or data"):
        run_scoring(score_job().model_copy(update={"checkpoint_path": other}))
    with pytest.raises(InputError, match="holds scores of other weights or data"):
        run_scoring(score_job(precision="bf16"))


def test_a_broken_checkpoint_is_named_with_the_pair(score_job, tmp_path):
    """Its weights are finite, each of them, and what is computed with them is not."""
    path = Path(score_job().checkpoint_path) / "model.safetensors"
    weights = load_file(path)
    weights["matching.weight"].fill_(3e38)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"the score of image 000000000 with caption c0 is (nan|-?inf): the checkpoint"
    ):
        run_scoring(score_job())
    assert not list((tmp_path / "scores").glob("scores-*.npy"))


def test_a_damaged_block_is_named(score_job, tmp_path):
    run_scoring(score_job())
    block = tmp_path / "scores" / block_name(3)
    block.write_bytes(block.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"scores-00003.npy cannot be read .*; remove it and evaluate again"):
        run_scoring(score_job())


def command(job: ScoreJob, *launcher: str) -> "subprocess.Popen[str]":
    path = Path(f"{job.output_path}.json")
    path.write_text(job.model_dump_json())
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "model.scoring", "--config", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow("kills and goes on, process by process")
def test_killed_while_scoring_it_loses_no_block(job, make_world, tmp_path):
    """kill -9 twice on the way: what stood then stands untouched, and the end is what an undisturbed run makes."""
    source, _ = make_world([[n % 8] for n in range(60)], [(n, WORDS[n % 8]) for n in range(60) for _ in range(4)])
    run_pretraining(job(steps=1).model_copy(update={"train": source}))
    task = ScoreJob(
        output_path=str(tmp_path / "scores"),
        checkpoint_path=str(list_checkpoints(Path(job().run_path))[-1].path),
        data=source,
        # An image a block, a pair a pass: slow enough to be met on the way.
        scoring=ScoringConfig(num_threads=1, block_pairs=240, batch_size=1),
    )
    folder, standing = tmp_path / "scores", {}
    for _ in range(2):
        process, until = command(task), time.monotonic() + 120
        while len(list(folder.glob("scores-*.npy"))) < len(standing) + 3:
            assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert not (folder / "metrics.json").exists()
        now = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("scores-*.npy")}
        assert len(now) < 60
        assert {name: now[name] for name in standing} == standing
        standing = now
    process = command(task)
    assert process.communicate(timeout=120)[0].count('"stage":"score"') > 0
    assert process.returncode == 0
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("scores-*.npy")}
    assert {name: after[name] for name in standing} == standing
    undisturbed = task.model_copy(update={"output_path": str(tmp_path / "undisturbed")})
    assert run_scoring(undisturbed) == 0
    assert np.array_equal(whole(folder), whole(tmp_path / "undisturbed"))
    for name in ("metrics.json", "items.npz", "plan.json"):
        assert (folder / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name


@pytest.mark.slow("torchrun with two processes")
def test_two_processes_share_the_blocks(score_job, tmp_path):
    assert run_scoring(score_job("alone")) == 0
    process = command(score_job("both"), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    np.testing.assert_allclose(whole(tmp_path / "both"), whole(tmp_path / "alone"), atol=1e-6, rtol=0)
    assert (tmp_path / "both" / "metrics.json").read_bytes() == (tmp_path / "alone" / "metrics.json").read_bytes()


def test_a_shortlist_scores_the_best_of_a_first_pass_exactly(score_job, tmp_path):
    run_scoring(score_job("exact"))
    exact = whole(tmp_path / "exact")
    few = Shortlist.model_construct(size=2, regions=1)
    task = score_job("few")
    task = task.model_copy(update={"scoring": task.scoring.model_copy(update={"shortlist": few})})
    assert run_scoring(task) == 0
    scores = whole(tmp_path / "few")
    scored = np.isfinite(scores)
    # Two at least in every row and column, not all of them, and those exactly.
    assert (scored.sum(0) >= 2).all() and (scored.sum(1) >= 2).all() and not scored.all()
    np.testing.assert_allclose(scores[scored], exact[scored], atol=1e-6, rtol=0)
    metrics = json.loads((tmp_path / "few" / "metrics.json").read_text())
    assert metrics["approximate"].startswith("exact for the best 2 of a first pass over 1 regions")
    assert json.loads((tmp_path / "exact" / "metrics.json").read_text())["approximate"] is None
    assert not (tmp_path / "few" / "first-pass").exists()
    # Done, it is not done again; and a shortlist of all is exact.
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "few").glob("*.npy")}
    assert run_scoring(task) == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "few").glob("*.npy")}
    assert run_scoring(score_job("all", shortlist={"size": 10})) == 0
    np.testing.assert_allclose(whole(tmp_path / "all"), exact, atol=1e-6, rtol=0)
