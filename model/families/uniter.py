"""UNITER: [CLS] words [SEP] regions through one BERT (arXiv:1909.11740, section 3.1).

Module names are BERT's, so that bert-base-cased's weights load by name (`bert.py`); `uniter_names.py` has the published
program's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.data.batch import Regions, Words
from model.errors import InputError
from model.families.config import EncoderConfig
from model.families.embeddings import WordEmbeddings, corners, wrong_width
from model.families.family import Encoded, Encoder, Side
from model.families.layers import Layer
from model.families.uniter_config import UniterConfig

_WORD_TYPE, _REGION_TYPE = 0, 1
_CODE_WIDTH = 7


def box_code(boxes: Tensor, sizes: Tensor) -> Tensor:
    """x0/W, y0/H, x1/W, y1/H, width/W, height/H and the product of these two: (B, R, 7), of pixels as `corners`."""
    places = corners(boxes, sizes)
    sides = places[..., 2:] - places[..., :2]
    return torch.cat([places, sides, sides.prod(-1, keepdim=True)], dim=-1)


class UniterEncoder(Encoder):
    """The shared encoder of words and regions. A region has no position but its box."""

    def __init__(self, vocab_size: int, feature_dim: int, sep_id: int, encoder: UniterConfig) -> None:
        super().__init__(encoder, sep_id)
        self.embeddings = WordEmbeddings(vocab_size, encoder, encoder.type_rows)
        self.region_embeddings = UniterRegionEmbeddings(feature_dim, encoder)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(encoder) for _ in range(encoder.num_layers))})

    @property
    def word_table(self) -> Tensor:
        return self.embeddings.word_embeddings.weight

    @property
    def feature_projection(self) -> Tensor:
        return self.region_embeddings.feature.weight

    def embed_words(self, words: Words) -> Side:
        batch, width = words.ids.shape
        positions = torch.arange(width, device=words.ids.device).expand(batch, -1)
        types = _WORD_TYPE if words.types is None else words.types
        return Side(self.embeddings(words.ids, positions, types), words.mask)

    def embed_regions(self, regions: Regions, features: Tensor, masked: Tensor | None = None) -> Side:
        """The learned mask vector is added to the features of masked regions, before their projection."""
        types = self.embeddings.segment(_REGION_TYPE if regions.types is None else regions.types)
        code = box_code(regions.boxes, regions.sizes)
        return Side(self.region_embeddings(features, code, types, masked), regions.mask)

    def join(self, texts: Side, images: Side) -> Tensor:
        return torch.cat([texts.states, images.states], dim=1)

    def join_masks(self, words: Tensor, regions: Tensor) -> Tensor:
        return torch.cat([words, regions], dim=1)

    def split(self, states: Tensor, tokens: int, regions: int) -> Encoded:
        return Encoded(states[:, 0], states[:, :tokens], states[:, tokens : tokens + regions])


class UniterRegionEmbeddings(nn.Module):
    """LN(LN(linear of the feature) + LN(linear of the box code) + type), dropout."""

    def __init__(self, feature_dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self.feature = nn.Linear(feature_dim, config.hidden_size)
        self.feature_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.location = nn.Linear(_CODE_WIDTH, config.hidden_size)
        self.location_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # Row 0, of regions that are seen, is zero and stays so.
        self.mask_embedding = nn.Embedding(2, feature_dim, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Tensor, code: Tensor, types: Tensor | float, masked: Tensor | None) -> Tensor:
        """(B, R, D) features and (B, R, 7) codes to (B, R, H); types (H,) or (B, R, H); masked (B, R) bool or None.

        Raises:
            InputError: the features are of another width than this model's.
        """
        if features.shape[-1] != self.feature.in_features:
            raise InputError(wrong_width(features.shape[-1], self.feature.in_features))
        if masked is not None:
            features = features + masked.unsqueeze(-1) * self.mask_embedding.weight[1]
        elif self.training:
            # Under torchrun every process must reach every parameter.
            features = features + 0.0 * self.mask_embedding.weight[1]
        total = self.feature_norm(self.feature(features)) + self.location_norm(self.location(code)) + types
        return self.dropout(self.LayerNorm(total))
