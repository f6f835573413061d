"""Before a long scoring one line says how long it will take and what shortens it; before a short one nothing does."""

import numpy as np
import pytest
import torch

from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary
from model.downstream.retrieval import forecast as module
from model.downstream.retrieval.config import ScoringConfig, Shortlist
from model.downstream.retrieval.forecast import forecast
from model.downstream.retrieval.pairs import PairScorer
from model.families.build import build_model
from tests.toy import TINY

CPU = torch.device("cpu")


@pytest.fixture
def ahead(make_world):
    """forecast of so many pairs."""
    source, vocabulary = make_world([[n % 8] for n in range(12)], [(0, "red")])
    store = FeatureStore(source.features_path)
    model = build_model(TINY, store, load_vocabulary(vocabulary), seed=2).eval()
    texts = [np.array([2, *[5] * length, 3], np.int32) for length in (1, 2, 3, 4)]
    read = []

    def make(left: int, processes: int = 1, gains: bool = False, **changes):
        config = ScoringConfig(batch_size=4, **changes)
        scorer = PairScorer(model, config, CPU)
        if gains:
            scorer.width = 768
        return forecast(
            scorer, texts, 12, lambda rows: (read.append(rows), store.read(rows, 4))[1], left, processes, config
        )

    make.read = read
    return make


def test_a_long_scoring_is_foretold_with_what_shortens_it(ahead, monkeypatch):
    monkeypatch.setattr("model.downstream.retrieval.pairs.computes_bf16", lambda device: True)
    rate, text = ahead(10**9, gains=True, precision="fp32")
    assert rate > 0
    assert text.startswith("1,000,000,000 pairs to score in fp32, 4 at a time, about ")
    assert " a second: until " in text and " hours from now. To shorten it: scoring.precision=bf16" in text
    assert 'scoring.shortlist={"size": 100, "regions": 10}' in text
    # A batch of images from all over the split.
    assert ahead.read == [[0, 3, 7, 11]]


def test_what_would_not_shorten_it_is_not_advised(ahead, monkeypatch):
    monkeypatch.setattr("model.downstream.retrieval.pairs.computes_bf16", lambda device: False)
    assert "bf16" not in ahead(10**9, gains=True, precision="fp32")[1]
    assert "shortlist" not in ahead(10**9, shortlist=Shortlist())[1]
    assert ahead(10**9, shortlist=Shortlist())[1].endswith("from now")


def test_a_short_scoring_is_not(ahead, monkeypatch):
    assert ahead(599) is None and not ahead.read  # Not even measured.
    monkeypatch.setattr(module, "_LONG_SECONDS", 1e9)
    assert ahead(10**6) is None and ahead.read


def test_processes_share_it(ahead, monkeypatch):
    monkeypatch.setattr(module, "_measure", lambda *arguments: 10.0)
    assert ahead(10**5)[0] == 10 and ahead(10**5, processes=4)[0] == 40
    assert "167 minutes" not in ahead(10**5)[1] and "3 hours from now" in ahead(10**5)[1]
    assert ahead(10**5, processes=4)[1].count("42 minutes from now") == 1
