"""Jobs of this room's three programs: one JSON file each, which is also the run's provenance."""

from __future__ import annotations

from pydantic import Field

from model.config import VOCABULARY_PATH, WORD_RULES, Config, FeatureSource, WordRules
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.configs import AnyEncoderConfig
from model.objectives.config import PretrainConfig


class TrainJob(Config):
    """What both kinds of training need."""

    run_path: str = Field(description="folder of the run: metrics, log and checkpoints")
    train: FeatureSource = Field(description="what is learnt from")
    validation: FeatureSource | None = Field(default=None, description="held-out pairs, see validation_steps")
    vocabulary_path: str = Field(description=VOCABULARY_PATH)
    word_rules: WordRules | None = Field(default=None, description=WORD_RULES)
    encoder: AnyEncoderConfig = Field(description="size and wiring of the model")
    scoring: ScoringConfig = Field(default=ScoringConfig(), description="how held-out recall is scored")


class PretrainJob(TrainJob):
    """Everything `python -m model.pretrain --config FILE` needs; also the run's provenance."""

    also: tuple[FeatureSource, ...] = Field(
        default=(), description="what else is learnt from, in any order; pretrain.corpora names it, and train"
    )
    pretrain: PretrainConfig = Field(description="objectives and the loop")


class FinetuneJob(TrainJob):
    """Everything `python -m model.finetune --config FILE` needs."""

    finetune: FinetuneConfig = Field(description="the hinge loss and the loop")
    checkpoint_path: str | None = Field(default=None, description="pretrained checkpoint; None with start=scratch")


class ScoreJob(Config):
    """Everything `python -m model.scoring --config FILE` needs."""

    output_path: str = Field(
        description="folder for the blocks of scores and metrics.json, see model/downstream/retrieval/scores.py"
    )
    checkpoint_path: str = Field(description="folder of the checkpoint that is scored")
    data: FeatureSource = Field(description="images and captions, each scored with each")
    scoring: ScoringConfig = Field(description="how they are scored")
