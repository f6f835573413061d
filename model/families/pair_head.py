"""The head of two images that see each other: UNITER (arXiv:1909.11740), section 4, for NLVR2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.families.config import EncoderConfig


class PairHead(nn.Module):
    """Each of two sequences attends to the other; what both then hold is pooled by a learned weight of each place."""

    def __init__(self, encoder: EncoderConfig) -> None:
        super().__init__()
        width, heads, dropout = encoder.hidden_size, encoder.num_heads, encoder.attention_dropout
        self.left = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.right = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.dense = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(encoder.dropout)
        self.score = nn.Linear(width, 1)

    def forward(self, left: Tensor, right: Tensor, left_mask: Tensor, right_mask: Tensor) -> Tensor:
        """Last states (B, S, H) of two sequences and their masks (B, S) bool to (B, 2 H)."""
        from_right, _ = self.left(left, right, right, key_padding_mask=~right_mask, need_weights=False)
        from_left, _ = self.right(right, left, left, key_padding_mask=~left_mask, need_weights=False)
        pooled = [self._pool(from_right, left, left_mask), self._pool(from_left, right, right_mask)]
        return torch.cat(pooled, dim=-1)

    def _pool(self, seen: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        mixed = self.dropout(torch.relu(self.dense(torch.cat([seen, states], dim=-1))))
        weights = torch.relu(self.score(mixed)).masked_fill(~mask.unsqueeze(-1), -torch.inf).softmax(1)
        return (weights * mixed).sum(1)
