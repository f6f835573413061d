"""Replacement of hidden regions' features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.data.batch import Movable, Regions
from model.families.embeddings import dequantise, dequantise_rows


@dataclass(frozen=True)
class Replacements(Movable):
    """What stands in for hidden features: pairs and places as in `Targets`.

    zeroed (B, R) bool. The noised ones get noise made from `noise_seeds` (N,) i64, the swapped ones the features of a
    region of another image: swap_features (M, D) and swap_scales (M,), as the shard holds them.
    """

    zeroed: Tensor
    noise_pairs: Tensor
    noise_places: Tensor
    noise_seeds: Tensor
    swap_pairs: Tensor
    swap_places: Tensor
    swap_features: Tensor
    swap_scales: Tensor


def hide_regions(regions: Regions, hidden: Replacements) -> Tensor:
    """Replace the features (B, R, D) f32 of hidden regions.

    A random vector is normal with mean 0 and the spread of all feature values of its image: the paper says "random
    vector" and no more.
    """
    features = dequantise(regions).masked_fill(hidden.zeroed.unsqueeze(-1), 0.0)
    if len(hidden.noise_pairs):
        spread = _spread(dequantise(regions), regions.mask)[hidden.noise_pairs]
        noise = seeded_normal(hidden.noise_seeds, features.shape[-1]) * spread.unsqueeze(-1)
        features = features.index_put((hidden.noise_pairs, hidden.noise_places), noise)
    if len(hidden.swap_pairs):
        swapped = dequantise_rows(hidden.swap_features, hidden.swap_scales)
        features = features.index_put((hidden.swap_pairs, hidden.swap_places), swapped)
    return features


def _spread(features: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation (B,) of all values of an image's regions, from features (B, R, D) whose padding is masked."""
    present = mask.unsqueeze(-1)
    values = (mask.sum(1) * features.shape[-1]).clamp(min=1)[:, None, None]
    mean = (features * present).sum((1, 2), keepdim=True) / values
    return (((features - mean) * present).square().sum((1, 2), keepdim=True) / values).sqrt().flatten()


def seeded_normal(seeds: Tensor, width: int) -> Tensor:
    """Standard normal numbers (N, width) f32, row n a function of seeds[n] (i64) alone, on any device.

    Numbers of a counter, mixed by SplitMix64 (Steele et al., 2014) and shaped by Box and Muller: a generator's stream
    would depend on the device and on what else the batch holds.
    """
    mixed = seeds.unsqueeze(1) + torch.arange(1, width + 1, device=seeds.device) * _signed(0x9E3779B97F4A7C15)
    mixed = (mixed ^ _shift(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shift(mixed, 27)) * _signed(0x94D049BB133111EB)
    mixed = mixed ^ _shift(mixed, 31)
    # Two 24-bit numbers, the precision of f32, in (0, 1).
    radius, angle = (((mixed >> low & 0xFFFFFF).float() + 0.5) / 2**24 for low in (0, 32))
    return (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()


def _signed(constant: int) -> int:
    """An unsigned 64-bit constant as the signed one of the same bits."""
    return constant - 2**64


def _shift(values: Tensor, bits: int) -> Tensor:
    """Logical right shift of i64: the sign is not drawn in."""
    return values >> bits & (1 << 64 - bits) - 1
