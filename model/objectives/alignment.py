"""Word-region alignment (WRA): optimal transport between a caption's words and an image's regions.

UNITER (arXiv:1909.11740), section 3.2 and equation 5. The plan comes from the inexact proximal point method (IPOT,
Xie et al., arXiv:1802.04307).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SHARPNESS = 0.5
"""Beta: the weight of the step's proximal term."""
_ITERATIONS = 50
_LEAST_NORM = 1e-5


def transport_distances(words: Tensor, regions: Tensor, word_mask: Tensor, region_mask: Tensor) -> Tensor:
    """Cost of the optimal transport between words and regions of each pair, (B,) f32.

    In f32 whatever the states are, also under autocast: products of 50 iterations lose all digits in bf16.

    Args:
        words, regions: last states (B, T, H) and (B, R, H); [CLS] and [SEP] are words.
        word_mask, region_mask: (B, T) and (B, R) bool; at least one of each in every pair.
    """
    with torch.autocast(words.device.type, enabled=False):
        costs = cosine_costs(words.float(), regions.float(), word_mask, region_mask)
        plan = transport_plan(costs.detach(), word_mask, region_mask)
        return (costs.transpose(1, 2) * plan).sum((1, 2))


def cosine_costs(words: Tensor, regions: Tensor, word_mask: Tensor, region_mask: Tensor) -> Tensor:
    """1 - cosine of each word's and each region's states: (B, T, R), 0 at padding."""
    units = [F.normalize(states, dim=-1, eps=_LEAST_NORM) for states in (words, regions)]
    real = word_mask.unsqueeze(2) & region_mask.unsqueeze(1)
    return (1 - units[0] @ units[1].transpose(1, 2)).masked_fill(~real, 0.0)


@torch.no_grad()
def transport_plan(costs: Tensor, word_mask: Tensor, region_mask: Tensor) -> Tensor:
    """The plan (B, R, T) for costs (B, T, R) in f32: how much of each region goes to each word, 0 at padding.

    Regions share the mass 1 equally, and so do words. The words' shares are exact, being scaled last. An image without
    regions takes no word.
    """
    word_mask = word_mask & region_mask.any(1, keepdim=True)
    words, regions = (mask.sum(1, keepdim=True).clamp(min=1).to(costs) for mask in (word_mask, region_mask))
    real = region_mask.unsqueeze(2) & word_mask.unsqueeze(1)
    kernel = torch.exp(costs.transpose(1, 2) / -_SHARPNESS).masked_fill(~real, 0.0)
    plan = real.to(costs)
    of_words = word_mask.to(costs) / words
    for _ in range(_ITERATIONS):
        plan = kernel * plan
        of_regions = _inverse(regions * torch.bmm(plan, of_words.unsqueeze(2)).squeeze(2), region_mask)
        of_words = _inverse(words * torch.bmm(of_regions.unsqueeze(1), plan).squeeze(1), word_mask)
        plan.mul_(of_regions.unsqueeze(2)).mul_(of_words.unsqueeze(1))
    return plan


def _inverse(values: Tensor, mask: Tensor) -> Tensor:
    """1 / values, and 0 where there is padding."""
    return values.masked_fill(~mask, 1.0).reciprocal().masked_fill(~mask, 0.0)
