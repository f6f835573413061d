"""Settings and inputs that decide which run of pretraining or finetuning is meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from model.config import FinetuneLoopConfig
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.tasks import RETRIEVAL
from model.families.configs import AnyEncoderConfig
from model.objectives.config import PretrainConfig
from tasks.records import Stage
from tasks.training.data import DataSpec
from tasks.training.text import TextSpec


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What both kinds of training runs have."""

    data: DataSpec
    vocabulary_path: str
    encoder: AnyEncoderConfig
    validation: DataSpec | None = None
    scoring: ScoringConfig = field(default_factory=ScoringConfig)


@dataclass(frozen=True, kw_only=True)
class PretrainSpec(_Trained):
    """Settings and inputs of a pretraining run.

    `also` are its other corpora, where pretrain.corpora names several; `text` is what it reads beside the pairs.
    """

    pretrain: PretrainConfig
    also: tuple[DataSpec, ...] = ()
    text: TextSpec | None = None
    stage: ClassVar[Stage] = Stage.PRETRAIN

    @property
    def loop(self) -> PretrainConfig:
        return self.pretrain

    @property
    def command(self) -> str:
        """What makes the run."""
        return "unicoder-vl pretrain"


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec(_Trained):
    """Settings and inputs of a finetuning run.

    `pretraining` is its first run, or `start_run` the name of that; neither for task-specific training.
    """

    finetune: FinetuneLoopConfig
    pretraining: PretrainSpec | None
    start_run: str | None = None
    task: str = RETRIEVAL
    stage: ClassVar[Stage] = Stage.FINETUNE

    @property
    def loop(self) -> FinetuneLoopConfig:
        return self.finetune

    @property
    def command(self) -> str:
        """What makes the run."""
        if self.start_run is not None:
            return f"unicoder-vl finetune --from {self.start_run}"
        setting = "task-specific" if self.pretraining is None else "pretrain+finetune"
        return f"unicoder-vl finetune --setting {setting}"


TrainSpec = PretrainSpec | FinetuneSpec


class FinalRecord(BaseModel):
    """final.json, which a complete run writes last."""

    model_config = ConfigDict(frozen=True)

    # Both name folders that are written to on other machines, so they are nothing that leads out of one.
    step: int
    checkpoint: str = Field(pattern=r"^checkpoints/step-[\w-]+$")
    weights_sha256: str = Field(pattern=r"^[\w-]+$")
