"""Unicoder-VL: [CLS] words [SEP] regions [SEP] through one BERT (arXiv:1908.06066, section 3.1).

Module names are BERT's, so that bert-base's weights load by name (`bert.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.data.batch import Regions, Words
from model.families.embeddings import RegionEmbeddings, WordEmbeddings
from model.families.family import Encoded, Encoder, Side
from model.families.layers import Layer
from model.families.unicoder_vl_config import UnicoderVLConfig

_WORD_SEGMENT, _REGION_SEGMENT = 0, 1


@dataclass(frozen=True)
class Texts(Side):
    """[CLS] words [SEP], and the closing [SEP] after the regions: (N, 1, H), or (N, 0, H) where there is none."""

    closing: Tensor


class UnicoderVLEncoder(Encoder):
    """The shared encoder of words and regions."""

    config: UnicoderVLConfig

    def __init__(self, vocab_size: int, feature_dim: int, sep_id: int, encoder: UnicoderVLConfig) -> None:
        super().__init__(encoder, sep_id)
        self.embeddings = WordEmbeddings(vocab_size, encoder, type_rows=2 if encoder.segments == "modality" else 0)
        self.region_embeddings = RegionEmbeddings(feature_dim, encoder)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(encoder) for _ in range(encoder.num_layers))})

    @property
    def word_table(self) -> Tensor:
        return self.embeddings.word_embeddings.weight

    @property
    def feature_projection(self) -> Tensor:
        return self.region_embeddings.fusion.feature_weight

    def embed_words(self, words: Words) -> Texts:
        """The closing mark carries the region segment and the position after the caption's last piece: the paper names
        the mark but no position, and this one does not depend on padding."""
        batch, width = words.ids.shape
        positions = torch.arange(width, device=words.ids.device).expand(batch, -1)
        end = words.mask.sum(1, keepdim=True)[:, : self._marks]
        closing = self.embeddings(torch.full_like(end, self.sep_id), end, _REGION_SEGMENT)
        return Texts(self.embeddings(words.ids, positions, _WORD_SEGMENT), words.mask, closing)

    def embed_regions(self, regions: Regions, features: Tensor, masked: Tensor | None = None) -> Side:
        """A masked region is one of zero features, and not marked otherwise."""
        mark = self.embeddings.segment(_REGION_SEGMENT)
        if self.config.region_position == "shared":
            mark = mark + self.embeddings.position_embeddings.weight[self.config.max_text_tokens]
        return Side(self.region_embeddings(features, regions.boxes, regions.sizes, mark), regions.mask)

    def join(self, texts: Texts, images: Side) -> Tensor:
        """Words, regions, closing mark."""
        return torch.cat([texts.states, images.states, texts.closing], dim=1)

    def join_masks(self, words: Tensor, regions: Tensor) -> Tensor:
        return torch.cat([words, regions, words[:, : self._marks]], dim=1)

    def split(self, states: Tensor, tokens: int, regions: int) -> Encoded:
        return Encoded(states[:, 0], states[:, :tokens], states[:, tokens : tokens + regions])

    @property
    def _marks(self) -> int:
        """How many closing marks there are; [CLS] is always there, so its mask is theirs."""
        return int(self.config.closing_sep)
