"""Parameters of every flow: frozen models, composed from the rooms' configs, that check that the rooms agree.

`RebuildParams` is a whole experiment. A stage's own parameters are a part of it, so one JSON file serves every
command, deployment and history row.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import Field, model_validator

from feature_extraction.config import ExtractorConfig
from flows.params.evaluation import EvaluateParams
from flows.params.fields import (
    Download,
    Encoder,
    Extractor,
    Finetune,
    Loader,
    Pretrain,
    RootUri,
    Scoring,
    VocabularyPath,
)
from flows.params.shards import DownloadParams, ExtractParams, Params
from flows.params.training import FinetuneParams, PretrainParams, Setting
from model.config import LoaderConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.objectives.config import PretrainConfig
from tasks.config import DatasetConfig, Name
from tasks.download.config import DownloadConfig
from tasks.workers.machines import RayConfig

_Stage = TypeVar("_Stage", bound=Params)


class RebuildParams(Params):
    """One whole experiment: from caption/URL rows to the retrieval table."""

    root_uri: RootUri = "data"
    pretraining_dataset: DatasetConfig | None = Field(
        default=None,
        description="with a split train, and val where validation is asked for. None where pretraining_datasets names "
        "several",
    )
    pretraining_datasets: tuple[DatasetConfig, ...] = Field(
        default=(),
        description="several corpora instead of pretraining_dataset; pretrain.corpora says which splits are learnt "
        "from, and how often. Validation looks at the split val of the first",
    )
    retrieval_dataset: DatasetConfig = Field(description="with the splits train and evaluation_split, and perhaps val")
    download: Download = DownloadConfig()
    extractor: Extractor = ExtractorConfig()
    vocabulary_path: VocabularyPath
    encoder: Encoder = UnicoderVLConfig()
    pretrain: Pretrain = PretrainConfig()
    finetune: Finetune = FinetuneConfig()
    task_specific: FinetuneConfig | None = Field(
        default=None, description="training without pretraining, for comparison; None leaves that row out"
    )
    scoring: Scoring = ScoringConfig()
    loader: Loader = LoaderConfig()
    evaluation_split: Name = Field(default="test", description="of retrieval_dataset: what the table is measured on")
    variant: str | None = Field(
        default=None,
        description="what an ablation changed, such as 3 layers: over time, such evaluations are compared with each "
        "other and not with those of the experiment itself",
    )
    accept_changes: bool = Field(default=False, description="see DownloadParams.accept_changes")
    max_workers: int = Field(default=2, ge=1, description="shards worked on at once")
    max_failed_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="of the shards of each split, so many may fail without stopping the experiment, but for the split "
        "that is measured. It goes on without them, and the report says so",
    )
    ray: RayConfig | None = Field(
        default=None,
        description="a Ray cluster whose workers download and extract; None: processes of this machine",
    )
    max_trainings: int = Field(
        default=1,
        ge=1,
        description="training and scoring processes at once; more than one where they have a device each",
    )

    @model_validator(mode="after")
    def _check_rooms_agree(self) -> RebuildParams:
        if self.encoder.max_regions > self.extractor.max_regions:
            raise ValueError(
                f"encoder.max_regions={self.encoder.max_regions} exceeds "
                f"extractor.max_regions={self.extractor.max_regions}"
            )
        self._check_corpora()
        for split in ("train", self.evaluation_split):
            if split not in self.retrieval_dataset.splits:
                raise ValueError(f"retrieval_dataset has no split {split!r}")
        if self.task_specific is not None and self.task_specific.start != "scratch":
            raise ValueError("task_specific.start must be 'scratch': that is what task-specific means")
        self._check_validation()
        return self

    def _check_corpora(self) -> None:
        if (self.pretraining_dataset is None) == (not self.pretraining_datasets):
            raise ValueError("name either pretraining_dataset, or several as pretraining_datasets")
        known = {self.retrieval_dataset.name: self.retrieval_dataset}
        for dataset in self.corpora:
            if known.setdefault(dataset.name, dataset) != dataset:
                raise ValueError(f"both datasets are named {dataset.name!r}; give them different names")
        if self.pretraining_dataset is not None and "train" not in self.pretraining_dataset.splits:
            raise ValueError("pretraining_dataset has no split 'train'")
        if self.pretraining_datasets and not self.pretrain.corpora:
            example = ", ".join(f'"{dataset.name}/train": 1' for dataset in self.corpora)
            raise ValueError(f"pretraining_datasets needs pretrain.corpora, such as {{{example}}}")
        splits = {f"{dataset.name}/{split}" for dataset in self.corpora for split in dataset.splits}
        if unknown := sorted(self.pretrain.corpora.keys() - splits):
            raise ValueError(
                f"pretrain.corpora names {unknown[0]}, but the splits of the pretraining datasets are "
                f"{', '.join(sorted(splits))}"
            )

    def _check_validation(self) -> None:
        """Fail before the download starts, not after days of downloading."""
        pretraining, retrieval = self.corpora[0], self.retrieval_dataset
        loops = (("pretrain", self.pretrain, pretraining), ("finetune", self.finetune, retrieval))
        for name, config, dataset in (*loops, ("task_specific", self.task_specific, retrieval)):
            if config is not None and config.validation_steps is not None and "val" not in dataset.splits:
                raise ValueError(f"{name}.validation_steps is set, but {dataset.name} has no split 'val' to look at")

    def with_root(self, root_uri: str) -> RebuildParams:
        return self.model_copy(update={"root_uri": root_uri})

    def with_seed(self, seed: int) -> RebuildParams:
        """The same experiment with another seed for every training run; images and regions stay."""
        loops = {name: getattr(self, name) for name in ("pretrain", "finetune", "task_specific")}
        return self.model_copy(
            update={
                name: type(loop).model_validate(loop.model_dump() | {"seed": seed})
                for name, loop in loops.items()
                if loop is not None
            }
        )

    @property
    def name(self) -> str:
        """The experiment's name for people, such as `cc3m to flickr30k`."""
        data = f"{' + '.join(dataset.name for dataset in self.corpora)} to {self.retrieval_dataset.name}"
        return data if self.variant is None else f"{data}, {self.variant}"

    @property
    def corpora(self) -> tuple[DatasetConfig, ...]:
        """The datasets of pretraining."""
        return self.pretraining_datasets if self.pretraining_dataset is None else (self.pretraining_dataset,)

    @property
    def datasets(self) -> tuple[DatasetConfig, ...]:
        """All, each once."""
        named = {dataset.name: dataset for dataset in (*self.corpora, self.retrieval_dataset)}
        return tuple(named.values())

    def for_download(self) -> DownloadParams:
        return self._part(DownloadParams, datasets=self.datasets)

    def for_extract(self) -> ExtractParams:
        return self._part(ExtractParams, datasets=self.datasets)

    def for_pretrain(self) -> PretrainParams:
        dataset = self.corpora[0]
        return self._part(PretrainParams, dataset=dataset.name, validation_split=_validation_split(dataset))

    def for_finetune(self, finetune: FinetuneConfig | None = None) -> FinetuneParams:
        """Parameters of the finetuning run, or of another one such as `task_specific`."""
        config, dataset = finetune or self.finetune, self.retrieval_dataset
        return self._part(
            FinetuneParams,
            dataset=dataset.name,
            validation_split=_validation_split(dataset),
            finetune=config,
            pretraining=self.for_pretrain() if config.start == "pretrained" else None,
        )

    def for_evaluate(self, setting: Setting) -> EvaluateParams:
        finetune = self.task_specific if setting == "task-specific" else self.finetune
        return self._part(
            EvaluateParams,
            setting=setting,
            dataset=self.retrieval_dataset.name,
            split=self.evaluation_split,
            pretraining=self.for_pretrain() if setting == "zero-shot" else None,
            finetuning=None if setting == "zero-shot" else self.for_finetune(finetune),
        )

    def _part(self, stage: type[_Stage], **own: Any) -> _Stage:
        """Parameters of one stage: what it has in common with the experiment, by name, and its own."""
        common = {name: getattr(self, name) for name in stage.model_fields if name in type(self).model_fields}
        return stage.model_validate(common | own)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The rows of the table that this experiment can fill, beside chance.

        Pretraining that learns no matching has nothing to rank by before it is finetuned.
        """
        zero_shot: tuple[Setting, ...] = ("zero-shot",) if self.pretrain.learns_matching else ()
        specific: tuple[Setting, ...] = () if self.task_specific is None else ("task-specific",)
        return (*zero_shot, *specific, "pretrain+finetune")


def _validation_split(dataset: DatasetConfig) -> str | None:
    return "val" if "val" in dataset.splits else None
