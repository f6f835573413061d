"""What a family is: how words and regions become states. Everything else reads these states by the same names.

A caption and an image are embedded apart, once each, and then joined pair by pair: that is what exact scoring of every
image with every caption lives on. What depends on both sides (VL-BERT adds the whole image's vector to every word) is
work of `join`, on what the two sides kept for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn

from model.data.batch import Regions, Rows, Words
from model.errors import InputError
from model.families.config import EncoderConfig
from model.families.layouts import choose_layout


@dataclass(frozen=True)
class Side(Rows):
    """N captions or N images, embedded: states (N, L, H) and mask (N, L). A family adds what its `join` needs."""

    states: Tensor
    mask: Tensor

    def first(self, length: int) -> Self:
        """The first `length` places: all there are where the rest is padding."""
        return replace(self, states=self.states[:, :length], mask=self.mask[:, :length])


@dataclass(frozen=True)
class Encoded:
    """Hidden states of B pairs: cls (B, H), words (B, T, H), regions (B, R, H).

    whole (B, H): of the whole picture, in families that have it as a region of its own.
    """

    cls: Tensor
    words: Tensor
    regions: Tensor
    whole: Tensor | None = None


class Encoder(nn.Module, ABC):
    """Encoder of words and regions. A subclass names its parts as BERT does and keeps its layers in `encoder`."""

    encoder: nn.ModuleDict

    def __init__(self, config: EncoderConfig, sep_id: int) -> None:
        super().__init__()
        self.config, self.sep_id = config, sep_id

    @property
    def max_regions(self) -> int:
        """Best-scored regions read of an image."""
        return self.config.max_regions

    @property
    @abstractmethod
    def word_table(self) -> Tensor:
        """(V, H): what the masked-word head compares its states with."""

    @property
    @abstractmethod
    def feature_projection(self) -> Tensor:
        """(H, D): what takes a region's feature to a state; regression of features uses it transposed (UNITER)."""

    @abstractmethod
    def embed_words(self, words: Words) -> Any:
        """Captions as a `Side`, whatever image they will meet."""

    @abstractmethod
    def embed_regions(self, regions: Regions, features: Tensor, masked: Tensor | None = None) -> Any:
        """Images as a `Side`, whatever caption they will meet.

        Args:
            features: (B, R, D) f32, those of `regions` or what stands in their place; zeros where `masked`.
            masked: (B, R) True at regions that are hidden from the model, for families that mark them. None: nowhere.
        """

    @abstractmethod
    def join(self, texts: Any, images: Any) -> Tensor:
        """Row n of both sides to the states (B, S, H) that enter the layers; [CLS] is the first."""

    @abstractmethod
    def join_masks(self, words: Tensor, regions: Tensor) -> Tensor:
        """(B, S) bool from the two masks (B, T) and (B, R)."""

    @abstractmethod
    def split(self, states: Tensor, tokens: int, regions: int) -> Encoded:
        """States (B, S, H) of T tokens and R regions by what they are of; the inverse of `join`."""

    def encode_text(self, words: Words) -> Tensor:
        """Last states (B, T, H) of rows of text alone, without any picture.

        Raises:
            InputError: the family reads none.
        """
        raise InputError(
            f"family {self.config.family} reads no text without a picture; leave the text out, or use vl-bert"
        )

    def run(self, states: Tensor, mask: Tensor | None, cls_only: bool = False) -> Tensor:
        """The layers on states (B, S, H) with mask (B, S); None where nothing is padded.

        Returns:
            (B, S, H), undefined at padding; with `cls_only`, where the last layer computes [CLS] alone, (B, 1, H).
        """
        layout = choose_layout(self.config.sequences, mask)
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        batch = len(states)
        states = layout.enter(states)
        for number, layer in enumerate(layers):
            states = layer(states, layout, cls_only=cls_only and number == len(layers) - 1)
        return states.reshape(batch, 1, -1) if cls_only else layout.leave(states)

    def cls_states(self, texts: Side, images: Side, is_padded: bool = True) -> Tensor:
        """Last states (B, H) of [CLS] of joined pairs, the last layer computing nothing else.

        Args:
            is_padded: False where neither side has padding, so that no mask is needed.
        """
        mask = self.join_masks(texts.mask, images.mask) if is_padded else None
        return self.run(self.join(texts, images), mask, cls_only=True)[:, 0]

    def forward(self, words: Words, regions: Regions, features: Tensor, masked: Tensor | None = None) -> Encoded:
        """Arguments as of `embed_words` and `embed_regions`."""
        states = self.join(self.embed_words(words), self.embed_regions(regions, features, masked))
        states = self.run(states, self.join_masks(words.mask, regions.mask))
        return self.split(states, words.ids.shape[1], regions.mask.shape[1])
