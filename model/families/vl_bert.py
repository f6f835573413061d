"""VL-BERT: [CLS] words [SEP], the whole picture, regions, [END] through one BERT (arXiv:1908.08530, section 3.2).

Every element is LN(token + LN(visual vector) + position + segment), under one LayerNorm for all. The whole picture is
a region of its own, before the others, and every word carries its visual vector.

Where the paper and its published program differ, this is the program: box code, ReLU, dropout and the LayerNorms of the
visual part. Module names are BERT's, so that bert-base's weights load by name (`bert.py`); `vl_bert_names.py` has the
program's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from model.data.batch import Regions, Words
from model.errors import InputError
from model.families.config import EncoderConfig
from model.families.embeddings import WordEmbeddings, wrong_width
from model.families.family import Encoded, Encoder, Side
from model.families.layers import Layer
from model.families.vl_bert_config import VLBertConfig

_WORD_SEGMENT, _REGION_SEGMENT, _SEGMENTS = 0, 2, 3
_WAVES, _BASE, _SCALE = 256, 1000.0, 100.0
GEOMETRY_WIDTH = 4 * 2 * _WAVES
_FEW = 1e-5
"""What the program adds to the number of regions that it takes the mean of."""


def geometry(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Sines and cosines of a box's centre and size, as shares of the picture's: (B, R, 2048).

    Of cx/W, cy/H, w/W and h/H, each times 100: sin(v / 1000^(k/256)) for k = 0..255, then the cosines. The paper codes
    corners. Boxes (B, R, 4) and sizes (B, 2), width and height, in pixels.
    """
    sides = sizes.unsqueeze(1)
    first, last = boxes[..., :2], boxes[..., 2:]
    values = _SCALE * torch.cat([(first + last) / 2 / sides, (last - first) / sides], dim=-1)
    waves = _BASE ** (torch.arange(_WAVES, device=boxes.device, dtype=boxes.dtype) / _WAVES)
    angles = values.unsqueeze(-1) / waves
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2)


def with_whole_picture(regions: Regions, features: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor]:
    """Boxes (B, 1 + R, 4) and features (B, 1 + R, D) of the whole picture and its regions.

    The picture's feature is `Regions.whole`, or else the mean of its regions' that are not hidden, those included which
    the sequence has no room for (`Regions.counted`); zeros where all are hidden.
    """
    box = torch.cat([torch.zeros_like(regions.sizes), regions.sizes - 1], dim=1)
    whole = regions.whole
    if whole is None:
        shown = regions.mask if regions.counted is None else regions.counted
        if masked is not None:
            shown = shown & ~masked
        whole = (features * shown.unsqueeze(-1)).sum(1) / (shown.sum(1, keepdim=True) + _FEW)
    return torch.cat([box.unsqueeze(1), regions.boxes], dim=1), torch.cat([whole.unsqueeze(1), features], dim=1)


@dataclass(frozen=True)
class Texts(Side):
    """Words without their visual part and LayerNorm, which the picture decides.

    place (N, 1, H): position and segment of the regions, for they come after the words. closing (N, 1, H): [END], which
    has no visual part and so is done. tags (N, T): as in `Words`.
    """

    place: Tensor
    closing: Tensor
    tags: Tensor | None

    def first(self, length: int) -> Self:
        tags = None if self.tags is None else self.tags[:, :length]
        return replace(self, states=self.states[:, :length], mask=self.mask[:, :length], tags=tags)


@dataclass(frozen=True)
class Pictures(Side):
    """Visual vectors of the whole picture and of its regions (N, 1 + R, H); the mask (N, R) is of regions alone.

    hidden (N, R): regions whose token says so; None: nowhere.
    """

    hidden: Tensor | None

    def first(self, length: int) -> Self:
        hidden = None if self.hidden is None else self.hidden[:, :length]
        return replace(self, states=self.states[:, : 1 + length], mask=self.mask[:, :length], hidden=hidden)


class VLBertEncoder(Encoder):
    """The shared encoder of words and regions."""

    def __init__(self, vocab_size: int, feature_dim: int, sep_id: int, encoder: VLBertConfig) -> None:
        super().__init__(encoder, sep_id)
        self.embeddings = WordEmbeddings(vocab_size, encoder, _SEGMENTS)
        self.region_embeddings = VisualEmbeddings(feature_dim, encoder)
        self.end_token = nn.Embedding(1, encoder.hidden_size)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(encoder) for _ in range(encoder.num_layers))})

    @property
    def word_table(self) -> Tensor:
        return self.embeddings.word_embeddings.weight

    @property
    def feature_projection(self) -> Tensor:
        return self.region_embeddings.joint.weight[:, GEOMETRY_WIDTH:]

    def embed_words(self, words: Words) -> Texts:
        """Words have positions 0, 1, ...; all regions the one after them; [END] the next."""
        table = self.embeddings
        types = _WORD_SEGMENT if words.types is None else words.types
        positions = table.position_embeddings.weight[: words.ids.shape[1]]
        states = table.word_embeddings(words.ids) + positions + table.segment(types)
        after = words.mask.sum(1, keepdim=True)
        place = table.position_embeddings(after) + table.segment(_REGION_SEGMENT)
        closing = self.end_token.weight + table.position_embeddings(after + 1) + table.segment(_REGION_SEGMENT)
        return Texts(states, words.mask, place, self._normed(closing), words.tags)

    def embed_regions(self, regions: Regions, features: Tensor, masked: Tensor | None = None) -> Pictures:
        """A hidden region keeps its box; a learned vector stands in for its feature, and another for [IMG]."""
        return Pictures(self.region_embeddings(regions, features, masked), regions.mask, masked)

    def join(self, texts: Texts, images: Pictures) -> Tensor:
        """Words, each with the whole picture's visual vector or its own object's; the picture; regions; [END]."""
        visual = images.states
        if texts.tags is None:
            carried = visual[:, :1]
        else:
            carried = visual.gather(1, texts.tags.unsqueeze(-1).expand(-1, -1, visual.shape[-1]))
        words = self._normed(texts.states + self.region_embeddings.text_norm(carried))
        regions = self._normed(self.region_embeddings.tokens(visual, images.hidden) + texts.place)
        return torch.cat([words, regions, texts.closing], dim=1)

    def join_masks(self, words: Tensor, regions: Tensor) -> Tensor:
        """The whole picture and [END] are always there, as the first word is."""
        always = words[:, :1]
        return torch.cat([words, always, regions, always], dim=1)

    def split(self, states: Tensor, tokens: int, regions: int) -> Encoded:
        after = tokens + 1
        return Encoded(states[:, 0], states[:, :tokens], states[:, after : after + regions], states[:, tokens])

    def embed_text(self, words: Words) -> Tensor:
        """States (B, T + 1, H) that enter the layers of rows without a picture: words and [END]."""
        texts = self.embed_words(words)
        visual = self.region_embeddings.text_norm(self.region_embeddings.text_visual.weight)
        return torch.cat([self._normed(texts.states + visual), texts.closing], dim=1)

    def encode_text(self, words: Words) -> Tensor:
        mask = torch.cat([words.mask, words.mask[:, :1]], dim=1)
        return self.run(self.embed_text(words), mask)[:, :-1]

    def _normed(self, states: Tensor) -> Tensor:
        return self.embeddings.dropout(self.embeddings.LayerNorm(states))


class VisualEmbeddings(nn.Module):
    """ReLU(linear of [geometry; feature]) of the whole picture and its regions, and the vectors learned beside it."""

    def __init__(self, feature_dim: int, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self._feature_dim = feature_dim
        self.joint = nn.Linear(GEOMETRY_WIDTH + feature_dim, width)
        self.image_token = nn.Embedding(1, width)
        self.hidden_token = nn.Embedding(1, width)
        # Zero at first, which a parameter that is no embedding's stays.
        self.hidden_feature = nn.Parameter(torch.zeros(1, feature_dim))
        self.text_visual = nn.Embedding(1, width)
        self.text_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.region_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        for norm in (self.text_norm, self.region_norm):
            # BERT begins as it is: the visual part grows from nothing.
            nn.init.zeros_(norm.weight)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, regions: Regions, features: Tensor, masked: Tensor | None) -> Tensor:
        """Visual vectors (B, 1 + R, H); features (B, R, D), masked (B, R) bool or None.

        Raises:
            InputError: the features are of another width than this model's.
        """
        if features.shape[-1] != self._feature_dim:
            raise InputError(wrong_width(features.shape[-1], self._feature_dim))
        boxes, features = with_whole_picture(regions, features, masked)
        if masked is not None:
            seen = torch.zeros_like(masked[:, :1])
            features = torch.where(torch.cat([seen, masked], 1).unsqueeze(-1), self.hidden_feature, features)
        both = torch.cat([geometry(boxes, regions.sizes), features], dim=-1)
        visual = torch.relu(self.joint(self.dropout(both)))
        if self.training:
            # Under torchrun every process must reach every parameter, whatever its batch holds.
            for learned in (self.hidden_feature, self.hidden_token.weight, self.text_visual.weight):
                visual = visual + 0.0 * learned.sum()
        return visual

    def tokens(self, visual: Tensor, hidden: Tensor | None) -> Tensor:
        """The picture and its regions, with their tokens (B, 1 + R, H), from their visual vectors."""
        token = self.image_token.weight
        if hidden is not None:
            # The picture itself is never hidden.
            marks = torch.cat([torch.zeros_like(hidden[:, :1]), hidden], 1).unsqueeze(-1)
            token = torch.where(marks, self.hidden_token.weight, token)
        return self.region_norm(visual) + token
