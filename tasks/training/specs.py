"""What decides which run is meant: settings and inputs of pretraining and finetuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.config import EncoderConfig
from model.objectives.config import PretrainConfig
from tasks.training.data import DataSpec


@dataclass(frozen=True)
class PretrainSpec:
    """What a pretraining run is."""

    data: DataSpec
    vocabulary_path: str
    encoder: EncoderConfig
    pretrain: PretrainConfig
    validation: DataSpec | None = None
    scoring: ScoringConfig = field(default_factory=ScoringConfig)


@dataclass(frozen=True)
class FinetuneSpec:
    """What a finetuning run is; `pretraining` is the run it starts from, None for task-specific training."""

    data: DataSpec
    vocabulary_path: str
    encoder: EncoderConfig
    finetune: FinetuneConfig
    pretraining: PretrainSpec | None
    validation: DataSpec | None = None
    scoring: ScoringConfig = field(default_factory=ScoringConfig)


class FinalRecord(BaseModel):
    """final.json, which a complete run writes last."""

    model_config = ConfigDict(frozen=True)

    # Both name folders that are written to on other machines, so they are nothing that leads out of one.
    step: int
    checkpoint: str = Field(pattern=r"^checkpoints/step-[\w-]+$")
    weights_sha256: str = Field(pattern=r"^[\w-]+$")
