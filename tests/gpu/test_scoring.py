"""Scores made on a GPU against those of the CPU, which tests/unit/model/test_scoring.py holds against a plain loop."""

import numpy as np
import pytest
import torch

from model.data.batch import Regions
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.pairs import PairScorer
from model.families.model import VisionLanguageModel
from model.families.unicoder_vl_config import UnicoderVLConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: torch sees none"),
]
IMAGES, MOST, WIDTH, VOCABULARY = 6, 20, 64, 300


@pytest.fixture
def world():
    torch.manual_seed(0)
    encoder = UnicoderVLConfig(hidden_size=128, num_layers=3, num_heads=4, intermediate_size=256, max_regions=MOST)
    model = VisionLanguageModel(VOCABULARY, WIDTH, 7, sep_id=3, encoder=encoder.model_dump()).eval()
    corner = torch.rand(IMAGES, MOST, 2) * 100
    regions = Regions(
        features=torch.randint(0, 256, (IMAGES, MOST, WIDTH), dtype=torch.uint8),
        scales=torch.rand(IMAGES, MOST) * 4,
        boxes=torch.cat([corner, corner + 50], -1),
        sizes=torch.tensor([[160.0, 160.0]]).repeat(IMAGES, 1),
        labels=torch.zeros(IMAGES, MOST, dtype=torch.int64),
        scores=torch.rand(IMAGES, MOST),
        background=torch.rand(IMAGES, MOST),
        mask=torch.arange(MOST) < torch.tensor([20, 20, 11, 3, 1, 0]).unsqueeze(1),
    )
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, VOCABULARY, length).astype(np.int32) for length in rng.integers(3, 15, 50)]
    return model, regions, texts


def test_scores_in_fp32_are_those_of_the_cpu(world):
    model, regions, texts = world
    here = PairScorer(model, ScoringConfig(precision="fp32"), torch.device("cpu")).score(regions, texts)
    for batch_size in (16, 1000):
        there = PairScorer(model.cuda(), ScoringConfig(precision="fp32", batch_size=batch_size), torch.device("cuda"))
        np.testing.assert_allclose(there.score(regions, texts), here, atol=1e-4, rtol=0)


def test_scores_in_bf16_are_near_and_do_not_tie(world):
    model, regions, texts = world
    exact = PairScorer(model, ScoringConfig(precision="fp32"), torch.device("cpu")).score(regions, texts)
    scorer = PairScorer(model.cuda(), ScoringConfig(precision="bf16"), torch.device("cuda"))
    scores = scorer.score(regions, texts)
    assert np.corrcoef(scores.ravel(), exact.ravel())[0, 1] > 0.99
    assert len(np.unique(scores)) > 0.95 * len(np.unique(exact))
