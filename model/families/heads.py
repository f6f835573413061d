"""Heads: small networks that read an encoder's states.

Objectives and tasks say which they need; a checkpoint lists those that it has.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.families.config import EncoderConfig, HeadConfig, Heads, Sizes
from model.families.layers import ACTIVATIONS, WordHead
from model.families.pair_head import PairHead

MATCHING: Heads = {"matching": HeadConfig(kind="linear", width=1)}
"""Whether an image and a caption belong together, from [CLS]: learnt by pretraining, and what retrieval scores by."""


ITM: Heads = {"itm": HeadConfig(kind="linear", width=2)}
"""The same as two classes, no and yes, as UNITER pretrains it; finetuning's `MATCHING` starts from its row of yes."""


def pretraining_heads(sizes: Sizes) -> Heads:
    """The heads of Unicoder-VL's three objectives, which checkpoints have that list none.

    Every new model draws them, whichever it keeps, so that the first weights of a seed do not depend on objective or
    task; heads beside these draw theirs from the seed and their name.
    """
    return {
        "cls": HeadConfig(kind="words", width=sizes.vocab_size),
        "region_labels": HeadConfig(kind="linear", width=sizes.num_labels),
        **MATCHING,
    }


def _words(head: HeadConfig, encoder: EncoderConfig) -> nn.Module:
    """BERT's masked-word head, under its name."""
    return nn.ModuleDict({"predictions": WordHead(head.width, encoder)})


def _linear(head: HeadConfig, encoder: EncoderConfig) -> nn.Module:
    return nn.Linear(head.inputs * encoder.hidden_size, head.width)


class FeatureHead(nn.Module):
    """Regression of a region's feature: linear, GELU, LayerNorm, times the transposed projection of features, bias."""

    def __init__(self, head: HeadConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(encoder.hidden_size, encoder.hidden_size)
        self.LayerNorm = nn.LayerNorm(encoder.hidden_size, eps=encoder.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(head.width))

    def forward(self, states: Tensor, projection: Tensor) -> Tensor:
        """(N, H) states of hidden regions and the projection (H, D) to (N, D)."""
        return F.linear(self.LayerNorm(F.gelu(self.dense(states))), projection.T, self.bias)


class Mlp(nn.Module):
    """Linear, activation, LayerNorm where there is one, linear."""

    def __init__(self, head: HeadConfig, encoder: EncoderConfig) -> None:
        super().__init__()
        inner = head.inner * encoder.hidden_size
        self.dense = nn.Linear(head.inputs * encoder.hidden_size, inner)
        self.LayerNorm = nn.LayerNorm(inner, eps=encoder.layer_norm_eps) if head.norm else nn.Identity()
        self.output = nn.Linear(inner, head.width)
        self._activation = ACTIVATIONS[head.activation]

    def forward(self, states: Tensor) -> Tensor:
        return self.output(self.LayerNorm(self._activation(self.dense(states))))


def _pair(head: HeadConfig, encoder: EncoderConfig) -> nn.Module:
    return PairHead(encoder)


_KINDS: dict[str, Callable[[HeadConfig, EncoderConfig], nn.Module]] = {
    "words": _words,
    "features": FeatureHead,
    "linear": _linear,
    "mlp": Mlp,
    "pair": _pair,
}
"""By `HeadConfig.kind`."""


def make_head(head: HeadConfig, encoder: EncoderConfig) -> nn.Module:
    return _KINDS[head.kind](head, encoder)
