"""Parameters of pretraining and finetuning."""

from __future__ import annotations

from pydantic import Field, model_validator

from feature_extraction.config import ExtractorConfig
from flows.params.shards import ROOT_URI, Params
from model.config import VOCABULARY_PATH, LoaderConfig, LoopConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.config import EncoderConfig
from model.objectives.config import PretrainConfig
from tasks.config import Name
from tasks.training import runs, specs
from tasks.training.data import DataSpec
from tasks.workers.machines import NodesConfig

Setting = runs.Setting


_NODES = Field(
    default=None,
    description="the machines that train this run together, of which this is one; each is given the same parameters "
    "but for node_rank. They share the batch, and are no part of what the run is. None: this machine alone",
)


class PretrainParams(Params):
    """Feature shards of the pretraining dataset to a pretrained checkpoint."""

    root_uri: str = ROOT_URI
    dataset: Name = Field(description="name of the dataset")
    split: Name = Field(default="train", description="of the dataset: what is learnt from")
    validation_split: Name | None = Field(
        default=None, description="held-out pairs of the dataset, see pretrain.validation_steps"
    )
    extractor: ExtractorConfig = Field(description="which detector found the regions")
    vocabulary_path: str = Field(description=VOCABULARY_PATH)
    encoder: EncoderConfig = Field(default=EncoderConfig(), description="size and wiring of the model")
    pretrain: PretrainConfig = Field(default=PretrainConfig(), description="objectives and loop of pretraining")
    scoring: ScoringConfig = Field(default=ScoringConfig(), description="how pairs are scored")
    loader: LoaderConfig = Field(default=LoaderConfig(), description="how features are read")
    nodes: NodesConfig | None = _NODES

    @model_validator(mode="after")
    def _check_validation(self) -> PretrainParams:
        _check_validated(self.pretrain, self.validation_split, "pretrain")
        return self

    def spec(self) -> specs.PretrainSpec:
        return specs.PretrainSpec(
            data=self.data(self.split),
            vocabulary_path=self.vocabulary_path,
            encoder=self.encoder,
            pretrain=self.pretrain,
            validation=None if self.validation_split is None else self.data(self.validation_split),
            scoring=self.scoring,
        )

    def data(self, split: str) -> DataSpec:
        """A split of the dataset."""
        return DataSpec(self.dataset, split, self.extractor, self.loader)


def _check_validated(config: LoopConfig, validation_split: str | None, name: str) -> None:
    if config.validation_steps is not None and validation_split is None:
        raise ValueError(f"{name}.validation_steps is set, but there is no validation_split to look at")


class FinetuneParams(Params):
    """Feature shards of a retrieval dataset, and perhaps a pretrained checkpoint, to a retrieval checkpoint."""

    root_uri: str = ROOT_URI
    dataset: Name = Field(description="name of the dataset")
    split: Name = Field(default="train", description="of the dataset: what is learnt from")
    validation_split: Name | None = Field(
        default="val", description="held-out split of the dataset, see finetune.validation_steps"
    )
    extractor: ExtractorConfig = Field(description="which detector found the regions")
    vocabulary_path: str = Field(description=VOCABULARY_PATH)
    encoder: EncoderConfig = Field(default=EncoderConfig(), description="size and wiring of the model")
    finetune: FinetuneConfig = Field(default=FinetuneConfig(), description="loss and loop of finetuning")
    scoring: ScoringConfig = Field(default=ScoringConfig(), description="how pairs are scored")
    loader: LoaderConfig = Field(default=LoaderConfig(), description="how features are read")
    pretraining: PretrainParams | None = Field(
        default=None, description="which pretraining run to start from; needed where finetune.start is 'pretrained'"
    )
    nodes: NodesConfig | None = _NODES

    @model_validator(mode="after")
    def _check_start(self) -> FinetuneParams:
        _check_validated(self.finetune, self.validation_split, "finetune")
        if self.finetune.start == "pretrained" and self.pretraining is None:
            raise ValueError(
                "finetune.start='pretrained' needs the parameters of a pretraining run; "
                "set pretraining, or finetune.start='scratch'"
            )
        if self.finetune.start == "scratch" and self.pretraining is not None:
            raise ValueError("finetune.start='scratch' reads no pretraining run; leave pretraining out")
        if self.pretraining is not None and self.pretraining.encoder.identity() != self.encoder.identity():
            raise ValueError("encoder differs from pretraining.encoder; a checkpoint is finetuned as it was trained")
        return self

    @property
    def setting(self) -> Setting:
        """The row of the table that this run is for."""
        return "task-specific" if self.pretraining is None else "pretrain+finetune"

    def spec(self) -> specs.FinetuneSpec:
        return specs.FinetuneSpec(
            data=self.data(self.split),
            vocabulary_path=self.vocabulary_path,
            encoder=self.encoder,
            finetune=self.finetune,
            pretraining=None if self.pretraining is None else self.pretraining.spec(),
            validation=None if self.validation_split is None else self.data(self.validation_split),
            scoring=self.scoring,
        )

    def data(self, split: str) -> DataSpec:
        """A split of the dataset."""
        return DataSpec(self.dataset, split, self.extractor, self.loader)
