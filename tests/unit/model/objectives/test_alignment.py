"""Optimal transport of words and regions against the iteration written out with loops, pair by pair."""

import math

import pytest
import torch

from model.objectives.alignment import cosine_costs, transport_distances, transport_plan


def plan_of_one(costs: list[list[float]]) -> list[list[float]]:
    """Regions x words, for costs words x regions: 50 proximal steps of one scaling each."""
    n, m = len(costs), len(costs[0])
    kernel = [[math.exp(-costs[word][region] / 0.5) for word in range(n)] for region in range(m)]
    plan, s = [[1.0] * n for _ in range(m)], [1 / n] * n
    for _ in range(50):
        q = [[kernel[i][j] * plan[i][j] for j in range(n)] for i in range(m)]
        d = [1 / (m * sum(q[i][j] * s[j] for j in range(n))) for i in range(m)]
        s = [1 / (n * sum(q[i][j] * d[i] for i in range(m))) for j in range(n)]
        plan = [[d[i] * q[i][j] * s[j] for j in range(n)] for i in range(m)]
    return plan


@pytest.fixture
def pairs():
    torch.manual_seed(0)
    word_mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    region_mask = torch.arange(4) < torch.tensor([[1], [4], [2]])
    return torch.randn(3, 5, 8), torch.randn(3, 4, 8), word_mask, region_mask


def test_plan_and_distance_of_padded_pairs_are_those_of_each_alone(pairs):
    words, regions, word_mask, region_mask = pairs
    costs = cosine_costs(*pairs)
    plan, distances = transport_plan(costs, word_mask, region_mask), transport_distances(*pairs)
    for row in range(3):
        n, m = int(word_mask[row].sum()), int(region_mask[row].sum())
        cosines = torch.nn.functional.cosine_similarity(words[row, :n, None], regions[row, None, :m], dim=-1)
        alone = plan_of_one((1 - cosines).double().tolist())
        torch.testing.assert_close(plan[row, :m, :n].double(), torch.tensor(alone).double(), atol=1e-5, rtol=1e-4)
        assert plan[row].sum().item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(plan[row].sum(0)[:n], torch.full((n,), 1 / n))  # Words share the mass equally.
        assert not plan[row, m:].any() and not plan[row, :, n:].any() and not costs[row, n:].any()
        expected = sum((1 - cosines)[word, region] * alone[region][word] for word in range(n) for region in range(m))
        assert distances[row].item() == pytest.approx(float(expected), abs=1e-5)


def test_an_image_without_regions_has_distance_0_and_a_finite_gradient(pairs):
    words, regions, word_mask, region_mask = pairs
    words.requires_grad_()
    region_mask[1] = False
    distances = transport_distances(words, regions, word_mask, region_mask)
    assert distances[1] == 0 and (distances[[0, 2]] > 0).all()
    distances.sum().backward()
    assert torch.isfinite(words.grad).all() and not words.grad[1].any() and words.grad[0].any()


def test_it_runs_in_fp32_under_autocast_and_the_plan_has_no_gradient(pairs):
    words, regions, *masks = pairs
    half = [states.bfloat16().requires_grad_() for states in (words, regions)]
    with torch.autocast("cpu", torch.bfloat16):
        found = transport_distances(*half, *masks)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, transport_distances(*(one.float() for one in half), *masks), atol=0, rtol=0)
    costs = cosine_costs(*(one.float() for one in half), *masks)
    assert not transport_plan(costs, *masks).requires_grad and costs.requires_grad
