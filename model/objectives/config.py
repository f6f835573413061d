"""Configuration of pretraining: what is hidden, how pairs are made wrong, how losses are weighed. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from feature_extraction.identity import Identity
from model.config import Config, LoopConfig


class WordMasking(Config):
    """Which word pieces are targets of the masked-word loss, and what stands in their place. The rest stay as they are.

    Defaults are v3's, where every target becomes [MASK]; v1 masks as BERT does: 80% [MASK], 10% random, 10% kept.
    """

    rate: float = Field(default=0.15, ge=0, lt=1, description="share of the pieces that are targets; 0: no word task")
    mask_share: float = Field(default=1.0, ge=0, le=1, description="share of the targets that become [MASK]")
    random_share: float = Field(default=0.0, ge=0, le=1, description="share that become another, random piece")
    at_least_one: bool = Field(
        default=True,
        description="one piece is a target where chance picked none, so that short captions teach something too (BERT "
        "and UNITER do so; Unicoder-VL says nothing of it)",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> WordMasking:
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"mask_share={self.mask_share} and random_share={self.random_share} exceed 1 together")
        return self


class RegionMasking(Config):
    """Which regions are hidden, and what stands in their feature's place. The rest keep it; boxes always stay.

    Defaults are v3's. v1: 80% a random vector, 10% the feature of a region of another image, 10% kept; it leaves the
    share of the regions open, and v3's 15% is taken.
    """

    rate: float = Field(default=0.15, ge=0, lt=1, description="share of the regions that are hidden; 0: no label task")
    zero_share: float = Field(default=0.9, ge=0, le=1, description="share of the hidden that become zeros")
    noise_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share that become a random vector: normal, mean 0, of the spread of the image's features (v1 "
        "names no distribution)",
    )
    swap_share: float = Field(default=0.0, ge=0, le=1, description="share that take a feature of another image")

    @model_validator(mode="after")
    def _check_shares(self) -> RegionMasking:
        if (total := self.zero_share + self.noise_share + self.swap_share) > 1 + 1e-9:
            raise ValueError(f"zero_share, noise_share and swap_share are {total} together; at most 1 is possible")
        return self


class PretrainConfig(LoopConfig):
    """The three pretraining tasks: masked words, masked object labels, visual-linguistic matching."""

    steps: int = Field(default=150_000, ge=1, description="optimiser steps")
    batch_size: int = Field(default=192, ge=1, description="captions per optimiser step, over all devices")
    word_masking: WordMasking = Field(default=WordMasking(), description="which word pieces are hidden, and how")
    region_masking: RegionMasking = Field(default=RegionMasking(), description="which regions are hidden, and how")
    hide: Literal["both", "one"] = Field(
        default="both",
        description="both: words and regions of a pair are hidden at once (v1, v3); one: only words or only regions, "
        "drawn for each pair (conditional masking, as UNITER argues for)",
    )
    min_label_score: float = Field(
        default=0.0, ge=0, le=1, description="masked regions below this score are no label target"
    )
    matching: Literal["replace", "paired", "none"] = Field(
        default="replace",
        description="replace: half the pairs are made wrong (paper); paired: every caption is fed twice, in its own "
        "pair and in a wrong one; none: no wrong pair and no matching loss",
    )
    negative: Literal["image", "image_or_caption"] = Field(
        default="image_or_caption",
        description="what is replaced in a wrong pair. image: the image (v1); image_or_caption: one of both, by a fair "
        "coin (v3). The other one comes from the same window of shards",
    )
    mismatched_losses: bool = Field(
        default=False,
        description="True adds word and label losses of wrong pairs. v3 leaves them out; v1 is silent, and its recipe "
        "follows v3",
    )
    word_weight: float = Field(default=1.0, ge=0, description="of the masked-word loss; both versions say 1")
    label_weight: float = Field(default=1.0, ge=0, description="of the masked-label loss; both versions say 1")
    matching_weight: float = Field(default=1.0, ge=0, description="of the matching loss; both versions say 1")
    validation_pairs: Annotated[int, Identity.NEVER] = Field(
        default=1000, ge=1, description="held-out captions, always the same and masked alike, that a validation reads"
    )
    quick_recall_images: Annotated[int, Identity.NEVER] = Field(
        default=100,
        ge=0,
        description="held-out images, always the same, over which a validation measures recall with all their "
        "captions; 0: no recall",
    )
