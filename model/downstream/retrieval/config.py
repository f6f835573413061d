"""Configuration of retrieval: finetuning, scoring, measures. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from feature_extraction.identity import Identity
from model.config import Config, Device, FinetuneLoopConfig, NumProcesses, NumThreads

RecallProtocol = Annotated[str, Field(pattern=r"^(all|(first|folds):[1-9][0-9]*)$")]
"""Over which images recall is measured: all, first:N or folds:N."""


class FinetuneConfig(FinetuneLoopConfig):
    """Finetuning for retrieval by hinge loss against wrong images and wrong captions."""

    steps: int = Field(default=10_000, ge=1, description="optimiser steps")
    batch_size: int = Field(default=64, ge=1, description="matched pairs per optimiser step, over all devices")
    score: Literal["sigmoid", "logit"] = Field(
        default="sigmoid", description="what the hinge compares: sigmoid (v3, margin .2) or raw logit (v1, margin .5)"
    )
    margin: float = Field(
        default=0.2, gt=0, description="by how much a matched pair is to score above a wrong one, in units of `score`"
    )
    negatives: int = Field(
        default=3,
        ge=1,
        description="wrong images and wrong captions sampled per pair, a side; the hinge is taken on the hardest. 3 is "
        "the paper's; 1 is UNITER's, one wrong image and one wrong caption",
    )
    negatives_from: Annotated[Literal["window", "batch"], Identity.UNLESS_DEFAULT] = Field(
        default="window",
        description="window: `negatives` are sampled a side, from the pair's window of shards. batch: "
        "hardest-in-batch, every other image and caption of the step's batch, over all devices, is a candidate. To "
        "find the hardest, all images are scored with all captions without gradients: batch_size^2 pairs a step, "
        "nearly twice as many where the batch is worked off in parts; then 3 scores a pair with gradients instead of "
        "1 + 2 x negatives. So a step takes 1.3 times as long as with 3 sampled negatives at batch_size 16, 3.3 times "
        "at 64. True matches are never negatives, of either kind; a pair for which nothing else is at hand has no "
        "hinge on that side",
    )
    hardest: Annotated[int | None, Identity.UNLESS_DEFAULT] = Field(
        default=None,
        ge=1,
        description="of the wrong ones of a side, so many are kept that score highest, found without gradients and "
        "dropout, and the hinge is taken on these alone. UNITER: 31 of negatives=399, averaged by mean_hinge_share=1. "
        "None: all that are sampled; of a batch, one",
    )
    mining_batch_size: Annotated[int, Identity.NEVER] = Field(
        default=256, ge=1, description="pairs per forward pass while the hardest are looked for"
    )
    text_weight: float = Field(default=1.0, ge=0, description="weight of the wrong-caption hinge")
    image_weight: float = Field(default=1.0, ge=0, description="weight of the wrong-image hinge")
    mean_hinge_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the steps, at the start, that average the hinge over the negatives, which are then "
        "sampled ones, instead of taking the hardest. Not in Unicoder-VL's paper: from scratch, the hardest negative "
        "alone can stall at twice the margin. UNITER averages in all steps: 1",
    )
    validation_images: Annotated[int | None, Identity.CHOICE, Identity.UNLESS_DEFAULT] = Field(
        default=None,
        ge=2,
        description="held-out images, always the first of the split, over which a validation measures recall with all "
        "their captions. None: all of them",
    )

    @model_validator(mode="after")
    def _check_batch(self) -> FinetuneConfig:
        if self.negatives_from == "batch" and self.batch_size < 2:
            raise ValueError("negatives_from=batch needs a batch_size of at least 2: a pair has no negative in itself")
        if self.negatives_from == "window" and self.hardest is not None and self.hardest > self.negatives:
            raise ValueError(f"hardest={self.hardest} exceeds negatives={self.negatives}, which they are chosen from")
        return self

    def averages(self, step: int) -> bool:
        """Whether this step, from 0, averages the hinges of sampled negatives."""
        return step < self.mean_hinge_share * self.steps

    def searches_batch(self, step: int) -> bool:
        """Whether the negatives of this step, from 0, are all that its batch holds."""
        return self.negatives_from == "batch" and not self.averages(step)

    def mines(self, step: int) -> bool:
        """Whether this step, from 0, looks for the hardest of its negatives."""
        return self.hardest is not None or self.searches_batch(step)


class Shortlist(Config):
    """A cheap first pass over all pairs, and exact scores for its best alone; results are marked approximate."""

    size: int = Field(
        default=100, ge=10, description="captions of each image, and images of each caption, that are scored exactly"
    )
    regions: int = Field(default=10, ge=1, description="best-scored regions of an image that the first pass reads")


class ScoringConfig(Config):
    """Scoring of every image with every caption, exact unless `shortlist` is set, and the metrics made of it."""

    batch_size: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], Identity.NEVER] = Field(
        default="auto",
        description="pairs per forward pass. auto: on a CPU 8 of a model of base size and 32 of a narrower "
        "one, on a GPU 256",
    )
    block_pairs: Annotated[int, Identity.NEVER] = Field(
        default=200_000,
        ge=1,
        description="pairs of a block, at most, or else one image's: a block is what is held in memory, written as a "
        "whole, and lost when scoring is killed",
    )
    device: Device = "auto"
    num_processes: NumProcesses = None
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="bf16: autocast; the matching head and the scores are fp32 always. auto: that of scores that stand "
        "or are begun (fp32 first), else that of the last evaluation of the same data under this root, else bf16 "
        "where the device computes it and the model is wide enough that it pays, else fp32; log and metrics say which",
    )
    num_threads: NumThreads = None
    shortlist: Annotated[Shortlist | None, Identity.UNLESS_DEFAULT] = Field(
        default=None, description="None: every pair is scored exactly"
    )
    protocols: Annotated[tuple[RecallProtocol, ...], Identity.NEVER] = Field(
        default=("all",),
        min_length=1,
        description="over which images, with their captions, recall is measured. all: every one of the split; "
        "first:1000: its first 1,000; folds:1000: each 1,000 in turn, the metrics averaged (VSE++'s 1K protocol of "
        "COCO is folds:1000 of 5,000). The first one named is the main one",
    )
