"""BERT's layers, by BERT's names, over padded or packed sequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.families.config import EncoderConfig
from model.families.layouts import Layout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
"""By `EncoderConfig.hidden_act`."""


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence on itself; the names are BERT's."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self._heads = config.num_heads
        self._dropout = config.attention_dropout

    def forward(self, queries: Tensor, states: Tensor, layout: Layout) -> Tensor:
        """States of the layout, or first states where the queries are those, to the same."""
        dropout = self._dropout if self.training else 0.0
        return layout.attend(self.query(queries), self.key(states), self.value(states), self._heads, dropout)


class Residual(nn.Module):
    """Linear, dropout, add, LayerNorm (post-LN, as BERT)."""

    def __init__(self, width: int, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Layer(nn.Module):
    """One Transformer layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Residual(config.hidden_size, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = Residual(config.intermediate_size, config)
        self._activation = ACTIVATIONS[config.hidden_act]

    def forward(self, states: Tensor, layout: Layout, cls_only: bool = False) -> Tensor:
        """States of the layout to the same; with `cls_only` to its first states, from the same keys and values."""
        queries = layout.first(states) if cls_only else states
        states = self.attention["output"](self.attention["self"](queries, states, layout), queries)
        return self.output(self._activation(self.intermediate["dense"](states)), states)


class WordHead(nn.Module):
    """BERT's masked-word head; the output matrix is the word table."""

    def __init__(self, vocab_size: int, config: EncoderConfig) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {
                "dense": nn.Linear(config.hidden_size, config.hidden_size),
                "LayerNorm": nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
            }
        )
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self._activation = ACTIVATIONS[config.hidden_act]

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """(N, H) states of masked positions to (N, V) logits."""
        states = self.transform["LayerNorm"](self._activation(self.transform["dense"](states)))
        return F.linear(states, table, self.bias)
