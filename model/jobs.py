"""Jobs of this room's four programs: one JSON file each, which is also the run's provenance."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from model.config import (
    VOCABULARY_PATH,
    WORD_RULES,
    Config,
    ExampleSource,
    FeatureSource,
    FinetuneLoopConfig,
    PredictConfig,
    TextSource,
    WordRules,
)
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.tasks import RETRIEVAL, measured_task
from model.errors import InputError
from model.families.configs import AnyEncoderConfig
from model.objectives.config import PretrainConfig


class TrainJob(Config):
    """What both kinds of training need."""

    run_path: str = Field(description="folder of the run: metrics, log and checkpoints")
    vocabulary_path: str = Field(description=VOCABULARY_PATH)
    word_rules: WordRules | None = Field(default=None, description=WORD_RULES)
    encoder: AnyEncoderConfig = Field(description="size and wiring of the model")
    scoring: ScoringConfig = Field(default=ScoringConfig(), description="how held-out recall is scored")


class PretrainJob(TrainJob):
    """Everything `python -m model.pretrain --config FILE` needs; also the run's provenance."""

    train: FeatureSource = Field(description="what is learnt from")
    validation: FeatureSource | None = Field(default=None, description="held-out pairs, see validation_steps")
    also: tuple[FeatureSource, ...] = Field(
        default=(), description="what else is learnt from, in any order; pretrain.corpora names it, and train"
    )
    text: TextSource | None = Field(
        default=None,
        exclude_if=lambda text: text is None,
        description="text alone that is learnt from beside the pairs, by the objective mlm-text. None: none",
    )
    pretrain: PretrainConfig = Field(description="objectives and the loop")


def read_finetune(value: Any, task: str) -> FinetuneLoopConfig:
    """Read the settings of a finetuning as the task's own config says, for a validator of pydantic's."""
    try:
        kind = measured_task(task).config
        if kind is None:
            raise InputError(f"task {task!r} is measured only; nothing is trained for it")
        return kind.model_validate(value.model_dump() if isinstance(value, FinetuneLoopConfig) else value)
    except InputError as error:
        raise PydanticCustomError("task", "{what}", {"what": str(error)}) from error
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise PydanticCustomError("task_config", "{what}", {"what": what}) from error


class FinetuneJob(TrainJob):
    """Everything `python -m model.finetune --config FILE` needs."""

    task: str = Field(
        default=RETRIEVAL,
        exclude_if=lambda task: task == RETRIEVAL,
        description="what is learnt, a name in model/downstream/tasks.py; left out of files and of the identity where "
        "it is retrieval, as in those of before",
    )
    train: FeatureSource | ExampleSource = Field(
        description="what is learnt from: captions for retrieval, else examples"
    )
    validation: FeatureSource | ExampleSource | None = Field(
        default=None, description="held-out captions or examples, see validation_steps"
    )
    finetune: SerializeAsAny[FinetuneLoopConfig] = Field(description="the task's loss and the loop")
    checkpoint_path: str | None = Field(default=None, description="pretrained checkpoint; None with start=scratch")

    @field_validator("finetune", mode="plain")
    @classmethod
    def _read_config(cls, value: Any, info: ValidationInfo) -> FinetuneLoopConfig:
        return read_finetune(value, info.data.get("task", RETRIEVAL))

    @model_validator(mode="after")
    def _check_sources(self) -> FinetuneJob:
        kind = FeatureSource if self.task == RETRIEVAL else ExampleSource
        for name in ("train", "validation"):
            source = getattr(self, name)
            if source is not None and not isinstance(source, kind):
                path = "captions_path" if kind is FeatureSource else "examples_path"
                raise ValueError(f"task {self.task!r} reads {name}.{path}; give that instead")
        return self

    def task_identity(self) -> dict[str, str]:
        """What the task adds to the run's identity."""
        return {} if self.task == RETRIEVAL else {"task": self.task}


class ScoreJob(Config):
    """Everything `python -m model.scoring --config FILE` needs."""

    output_path: str = Field(
        description="folder for the blocks of scores and metrics.json, see model/downstream/retrieval/scores.py"
    )
    checkpoint_path: str = Field(description="folder of the checkpoint that is scored")
    data: FeatureSource = Field(description="images and captions, each scored with each")
    scoring: ScoringConfig = Field(description="how they are scored")


class PredictJob(Config):
    """Everything `python -m model.predict --config FILE` needs."""

    output_path: str = Field(description="folder for predictions.parquet and metrics.json, see model/predict.py")
    checkpoint_path: str = Field(description="folder of the finetuned checkpoint; its vocabulary is read, too")
    task: str = Field(description="what it was finetuned for, a name in model/downstream/tasks.py")
    data: ExampleSource = Field(description="the examples that are answered, with targets or without")
    predict: PredictConfig = Field(default=PredictConfig(), description="how they are answered")
