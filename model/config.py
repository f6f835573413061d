"""Configuration of the encoder and of both kinds of training. Imports no torch.

Defaults are the AAAI 2020 version of Unicoder-VL (arXiv:1908.06066v3), called v3 here; v1 is the first arXiv version.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Config(BaseModel):
    """Base of this room's configs: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderConfig(Config):
    """Size and wiring of the cross-modal encoder. Widths of words, regions and labels come from the data."""

    hidden_size: int = Field(default=768, ge=8, description="H")
    num_layers: int = Field(default=12, ge=1)
    num_heads: int = Field(default=12, ge=1)
    intermediate_size: int = Field(default=3072, ge=8, description="width of the feed-forward layers")
    max_positions: int = Field(default=512, ge=4, description="length of the word position table")
    max_text_tokens: int = Field(
        default=43, ge=4, description="longest [CLS] words [SEP], tokens; longer captions lose their end"
    )
    max_regions: int = Field(default=100, ge=1, description="best-scored regions read per image")
    box_code: Literal["corners", "corners_area"] = Field(
        default="corners_area",
        description="corners: x0/W, y0/H, x1/W, y1/H (v1); corners_area adds the box's share of the image (v3)",
    )
    region_fusion: Literal["concat", "sum"] = Field(
        default="sum",
        description="concat: one linear layer of [feature; box code] (v1); "
        "sum: linear of the feature + linear of the box code (v3)",
    )
    feature_norm: Literal["none", "layer", "standard"] = Field(
        default="none",
        description="what is done to the raw feature before its projection. none: nothing (the paper); layer: "
        "LayerNorm; standard: each dimension's mean and spread over training images taken out. For small models and "
        "detectors of unusual feature scale",
    )
    pooler: bool = Field(
        default=False,
        description="BERT's pooler, a tanh layer, between [CLS] and the matching head. The paper scores W o_CLS + b",
    )
    initializer_range: float = Field(default=0.02, gt=0, description="spread of new weights (normal)")
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_sizes(self) -> EncoderConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} is not a multiple of num_heads={self.num_heads}")
        if self.max_text_tokens >= self.max_positions:
            raise ValueError(
                f"max_text_tokens={self.max_text_tokens} must be below max_positions={self.max_positions}: "
                "the closing [SEP] takes one position"
            )
        return self


class OptimConfig(Config):
    """AdamW with linear warm-up and linear decay to zero."""

    learning_rate: float = Field(default=1e-4, gt=0, description="peak")
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0, description="not on biases and LayerNorms")
    warmup_share: float = Field(default=0.1, ge=0, le=1, description="share of the steps that warm up")
    max_grad_norm: float = Field(default=1.0, gt=0)


class LoopConfig(Config):
    """What every training run has."""

    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(ge=1, description="captions per optimiser step, over all devices")
    seed: int = Field(default=0, ge=0)
    optim: OptimConfig = OptimConfig()
    checkpoint_steps: int = Field(default=1000, ge=1, description="steps between checkpoints")
    log_steps: int = Field(default=50, ge=1, description="steps between lines of metrics.jsonl")
    max_bad_steps: int = Field(default=10, ge=0, description="non-finite losses skipped in a row before the run stops")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="bf16: autocast; weights stay fp32")
    num_threads: int | None = Field(default=None, ge=1, description="CPU threads of torch; None leaves torch's choice")


class PretrainConfig(LoopConfig):
    """The three pretraining tasks: masked words, masked object labels, visual-linguistic matching."""

    steps: int = Field(default=150_000, ge=1)
    batch_size: int = Field(default=192, ge=1)
    word_mask_rate: float = Field(default=0.15, gt=0, lt=1, description="80% [MASK], 10% random, 10% kept")
    region_mask_rate: float = Field(default=0.15, gt=0, lt=1)
    region_mask: Literal["zeros", "noise"] = Field(
        default="zeros",
        description="zeros: 90% zeroed, 10% kept (v3); noise: 80% normal noise of the feature's own spread, "
        "10% another region of the batch, 10% kept (v1 leaves the noise's spread and the share of regions open)",
    )
    min_label_score: float = Field(
        default=0.0, ge=0, le=1, description="masked regions below this score are no label target"
    )
    matching: Literal["replace", "paired"] = Field(
        default="replace",
        description="replace: half the captions meet a random image instead of their own (paper); "
        "paired: every caption is fed twice, with its own and with another image",
    )
    mismatched_losses: bool = Field(
        default=False, description="True adds word and label losses of mismatched pairs (v1 is silent, v3 says no)"
    )


class FinetuneConfig(LoopConfig):
    """Retrieval by hinge loss against sampled negatives on both sides."""

    start: Literal["pretrained", "scratch"] = Field(
        default="pretrained", description="pretrained: a pretraining run's weights; scratch: task-specific training"
    )
    steps: int = Field(default=10_000, ge=1)
    batch_size: int = Field(default=64, ge=1)
    score: Literal["sigmoid", "logit"] = Field(
        default="sigmoid", description="what the hinge compares: sigmoid (v3, margin .2) or raw logit (v1, margin .5)"
    )
    margin: float = Field(default=0.2, gt=0)
    negatives: int = Field(default=3, ge=1, description="wrong images and wrong captions sampled per pair, a side")
    text_weight: float = Field(default=1.0, ge=0, description="weight of the wrong-caption hinge")
    image_weight: float = Field(default=1.0, ge=0, description="weight of the wrong-image hinge")
    validation_steps: int | None = Field(
        default=None, ge=1, description="steps between validations (all pairs of the validation split); None: never"
    )
    mean_hinge_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the steps, at the start, that average the hinge over the negatives instead of taking "
        "the hardest. Not in the paper: from scratch, the hardest negative alone can stall at twice the margin",
    )


class ScoringConfig(Config):
    """Exact scoring of every image with every caption."""

    batch_size: int = Field(default=256, ge=1, description="pairs per forward pass")
    device: str = Field(default="auto")
    precision: Literal["fp32", "bf16"] = "fp32"
    num_threads: int | None = Field(default=None, ge=1)


class FeatureSource(Config):
    """Where a training or scoring job finds its regions and captions. Local paths."""

    features_path: str = Field(description="folder with manifest.json and regions-*.tar")
    captions_path: str = Field(description="Parquet with caption_id, image_key, text, split")
    name: str = Field(description="dataset/split, for messages")


class PretrainJob(Config):
    """Everything `python -m model.pretrain --config FILE` needs; also the run's provenance."""

    run_path: str
    train: FeatureSource
    vocabulary_path: str = Field(description="word-piece vocabulary, one token a line")
    encoder: EncoderConfig
    pretrain: PretrainConfig


class FinetuneJob(Config):
    """Everything `python -m model.finetune --config FILE` needs."""

    run_path: str
    train: FeatureSource
    validation: FeatureSource | None = None
    vocabulary_path: str
    encoder: EncoderConfig
    finetune: FinetuneConfig
    scoring: ScoringConfig = ScoringConfig()
    checkpoint_path: str | None = Field(default=None, description="pretrained checkpoint; None with start=scratch")


class ScoreJob(Config):
    """Everything `python -m model.scoring --config FILE` needs."""

    output_path: str = Field(description="folder for scores.npz and metrics.json")
    checkpoint_path: str
    data: FeatureSource
    scoring: ScoringConfig
