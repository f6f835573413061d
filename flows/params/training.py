"""Parameters of pretraining and finetuning."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from flows.params.fields import (
    DatasetName,
    Encoder,
    Extractor,
    Loader,
    Pretrain,
    RootUri,
    Scoring,
    VocabularyPath,
)
from flows.params.shards import Params
from model.config import FinetuneLoopConfig, LoaderConfig, LoopConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.downstream.tasks import RETRIEVAL
from model.families.config import EncoderConfig
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.jobs import read_finetune
from model.objectives.config import PretrainConfig
from tasks.config import Name
from tasks.training import runs, specs
from tasks.training.data import DataSpec
from tasks.training.text import TextSpec
from tasks.workers.machines import NodesConfig

Setting = runs.Setting


class TrainParams(Params):
    """What both kinds of training are given: features of a dataset, the model, and the machines."""

    root_uri: RootUri
    dataset: DatasetName
    split: Name = Field(default="train", description="of the dataset: what is learnt from")
    validation_split: Name | None = Field(
        default=None, description="held-out split of the dataset, see validation_steps of the loop"
    )
    extractor: Extractor
    vocabulary_path: VocabularyPath
    encoder: Encoder = UnicoderVLConfig()
    scoring: Scoring = ScoringConfig()
    loader: Loader = LoaderConfig()
    nodes: NodesConfig | None = Field(
        default=None,
        description="the machines that train this run together, of which this is one; each is given the same "
        "parameters but for node_rank. They share the batch, and are no part of what the run is. None: this machine "
        "alone",
    )

    def data(self, split: str, dataset: str | None = None) -> DataSpec:
        """A split of the dataset, or of another one."""
        return DataSpec(dataset or self.dataset, split, self.extractor, self.loader)

    def held_out(self) -> DataSpec | None:
        return None if self.validation_split is None else self.data(self.validation_split)

    def check_validated(self, loop: LoopConfig, name: str) -> None:
        if loop.validation_steps is not None and self.validation_split is None:
            raise ValueError(f"{name}.validation_steps is set, but there is no validation_split to look at")


def check_text(pretrain: PretrainConfig, encoder: EncoderConfig, is_named: bool, field: str) -> None:
    """Raise ValueError unless text alone is named where it is learnt from, and only there, and the encoder reads it."""
    if pretrain.reads_text and not is_named:
        raise ValueError(f"pretrain.objectives has mlm-text, which reads text alone; name a corpus of it in {field}")
    if is_named and not pretrain.reads_text:
        raise ValueError(
            f"{field} names text alone, which only the objective mlm-text reads; add that to pretrain.objectives, or "
            f"leave {field} out"
        )
    if is_named and not encoder.reads_text:
        raise ValueError(
            f"encoder.family={encoder.family} reads no text alone; leave {field} and mlm-text out, or take vl-bert"
        )


class PretrainParams(TrainParams):
    """Parameters of pretraining: feature shards of one corpus or more to a pretrained checkpoint.

    Where pretrain.corpora names what is learnt from, `dataset` and `split` are not learnt from beside these: of
    `dataset` the validation split is looked at.
    """

    text: str | None = Field(
        default=None,
        pattern=r"^[\w-]+/[\w-]+$",
        exclude_if=lambda text: text is None,
        description="DATASET/SPLIT of text alone, which the objective mlm-text reads beside the pairs. None: none",
    )
    pretrain: Pretrain = PretrainConfig()

    @model_validator(mode="after")
    def _check_validation(self) -> PretrainParams:
        self.check_validated(self.pretrain, "pretrain")
        return self

    @model_validator(mode="after")
    def _check_text(self) -> PretrainParams:
        check_text(self.pretrain, self.encoder, self.text is not None, "text")
        return self

    @property
    def corpora(self) -> tuple[DataSpec, ...]:
        """What is learnt from."""
        named = (name.partition("/") for name in sorted(self.pretrain.corpora))
        return tuple(self.data(split, dataset) for dataset, _, split in named) or (self.data(self.split),)

    @property
    def learnt_from(self) -> str:
        """The corpora for people, such as cc3m/train + sbu/train."""
        return " + ".join([*map(str, self.corpora), *filter(None, [self.text])])

    def spec(self) -> specs.PretrainSpec:
        first, *others = self.corpora
        return specs.PretrainSpec(
            data=first,
            also=tuple(others),
            text=None if self.text is None else TextSpec(*self.text.split("/")),
            vocabulary_path=self.vocabulary_path,
            encoder=self.encoder,
            validation=self.held_out(),
            scoring=self.scoring,
            pretrain=self.pretrain,
        )


class FinetuneParams(TrainParams):
    """Parameters of finetuning: feature shards, and perhaps a pretrained checkpoint, to a retrieval checkpoint."""

    validation_split: Name | None = Field(
        default="val", description="held-out split of the dataset, see finetune.validation_steps"
    )
    task: str = Field(default=RETRIEVAL, description="what is learnt, a name in model/downstream/tasks.py")
    finetune: SerializeAsAny[FinetuneLoopConfig] = Field(
        default=FinetuneConfig(), description="the task's loss and the loop of finetuning"
    )
    pretraining: PretrainParams | None = Field(
        default=None,
        description="which pretraining run to start from; this or start_run is needed where finetune.start is "
        "'pretrained'",
    )
    start_run: str | None = Field(
        default=None,
        description="name of a run under ROOT/runs to start from, such as an imported one, instead of its parameters",
    )

    @field_validator("finetune", mode="plain", json_schema_input_type=FinetuneConfig | dict[str, Any])
    @classmethod
    def _read_config(cls, value: Any, info: ValidationInfo) -> FinetuneLoopConfig:
        return read_finetune(value, info.data.get("task", RETRIEVAL))

    @model_validator(mode="after")
    def _check_start(self) -> FinetuneParams:
        self.check_validated(self.finetune, "finetune")
        if self.pretraining is not None and self.start_run is not None:
            raise ValueError("pretraining and start_run both say where finetuning starts; leave one out")
        starts = self.pretraining is not None or self.start_run is not None
        if self.finetune.start == "pretrained" and not starts:
            raise ValueError(
                "finetune.start='pretrained' needs the parameters of a pretraining run; "
                "set pretraining or start_run, or finetune.start='scratch'"
            )
        if self.finetune.start == "scratch" and starts:
            raise ValueError("finetune.start='scratch' reads no pretraining run; leave pretraining and start_run out")
        if self.pretraining is not None and self.pretraining.encoder.identity() != self.encoder.identity():
            raise ValueError("encoder differs from pretraining.encoder; a checkpoint is finetuned as it was trained")
        return self

    @property
    def setting(self) -> Setting:
        """The row of the table that this run is for."""
        return "task-specific" if self.finetune.start == "scratch" else "pretrain+finetune"

    def spec(self) -> specs.FinetuneSpec:
        return specs.FinetuneSpec(
            data=self.data(self.split),
            vocabulary_path=self.vocabulary_path,
            encoder=self.encoder,
            validation=self.held_out(),
            scoring=self.scoring,
            finetune=self.finetune,
            pretraining=None if self.pretraining is None else self.pretraining.spec(),
            start_run=self.start_run,
            task=self.task,
        )
