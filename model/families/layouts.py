"""Layouts of sequences of unequal length: padded to a rectangle, or packed one behind the other.

Both give the same states. A packed batch spends nothing on padding in the linear layers, LayerNorms and GELUs, and on
a GPU with torch's `varlen_attn` nothing in the attention either.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout(Protocol):
    """The layout of B sequences' states, (..., H) in its own shape."""

    def enter(self, states: Tensor) -> Tensor:
        """From (B, S, H)."""

    def leave(self, states: Tensor) -> Tensor:
        """Back to (B, S, H); padding is undefined."""

    def first(self, states: Tensor) -> Tensor:
        """The first state of every sequence, B in all."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float) -> Tensor:
        """Multi-head attention within each sequence; the queries are all states or the first ones."""


class Padded:
    """States are (B, S, H), first states (B, 1, H)."""

    def __init__(self, mask: Tensor | None) -> None:
        """mask (B, S) bool, True where there is something; None: everywhere."""
        self._mask = None if mask is None else mask[:, None, None, :]

    def enter(self, states: Tensor) -> Tensor:
        return states

    def leave(self, states: Tensor) -> Tensor:
        return states

    def first(self, states: Tensor) -> Tensor:
        return states[:, :1]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float) -> Tensor:
        query, key, value = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self._mask, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(2)


class Packed:
    """States are (N, H), the N real positions of all sequences in order; first states (B, H).

    Attention runs in `varlen_attn` where it can (see `has_varlen`), else padded.
    """

    def __init__(self, mask: Tensor) -> None:
        """mask (B, S) bool; the first position of every sequence must be there."""
        self._batch, self._width = mask.shape
        self._places = mask.flatten().nonzero().flatten()
        self._ends = F.pad(mask.sum(1).cumsum(0), (1, 0)).int()
        self._padded = Padded(mask)

    def enter(self, states: Tensor) -> Tensor:
        return states.flatten(0, 1).index_select(0, self._places)

    def leave(self, states: Tensor) -> Tensor:
        padded = states.new_zeros(self._batch * self._width, states.shape[-1])
        return padded.index_copy(0, self._places, states).view(self._batch, self._width, -1)

    def first(self, states: Tensor) -> Tensor:
        return states.index_select(0, self._ends[:-1])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float) -> Tensor:
        first_only = len(query) != len(key)
        if has_varlen(query, heads) and dropout == 0:
            # Here, for it brings torch's compiler along: seconds, also for a process without a GPU.
            from torch.nn.attention.varlen import varlen_attn

            ends = torch.arange(self._batch + 1, device=query.device, dtype=torch.int32) if first_only else self._ends
            query, key, value = (x.view(len(x), heads, -1) for x in (query, key, value))
            longest = 1 if first_only else self._width
            mixed = varlen_attn(query, key, value, ends, self._ends, longest, self._width)
            assert isinstance(mixed, Tensor)
            return mixed.flatten(1)
        if first_only:
            return self._padded.attend(query.unsqueeze(1), self.leave(key), self.leave(value), heads, dropout).squeeze(
                1
            )
        return self.enter(self._padded.attend(self.leave(query), self.leave(key), self.leave(value), heads, dropout))


def has_varlen(states: Tensor, heads: int) -> bool:
    """Whether `varlen_attn` takes these states (..., H): CUDA, half precision, heads of up to 256 in steps of 8."""
    width = states.shape[-1] // heads
    return states.is_cuda and states.dtype in (torch.float16, torch.bfloat16) and width <= 256 and width % 8 == 0


def choose_layout(how: Literal["auto", "padded", "packed"], mask: Tensor | None) -> Layout:
    """The layout of a batch; "auto" packs whenever there is padding. mask (B, S) bool; None: nothing is padded."""
    if mask is None:
        return Padded(None)
    if how == "auto":
        how = "padded" if bool(mask.all()) else "packed"
        return Padded(None) if how == "padded" else Packed(mask)
    return Padded(mask) if how == "padded" else Packed(mask)
