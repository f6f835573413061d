"""The parameters of every flow: frozen models, composed from the rooms' configs. They check that the rooms agree.

`RebuildParams` is a whole experiment. A stage's own parameters are a part of it, so one JSON file serves every
command, deployment and history row.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from feature_extraction.config import ExtractorConfig
from flows.params.evaluation import EvaluateParams
from flows.params.shards import DownloadParams, ExtractParams, Params
from flows.params.training import FinetuneParams, PretrainParams, Setting
from model.config import VOCABULARY_PATH, LoaderConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.config import EncoderConfig
from model.objectives.config import PretrainConfig
from tasks.config import DatasetConfig, Name
from tasks.download.config import DownloadConfig
from tasks.workers.machines import RayConfig


class RebuildParams(Params):
    """One whole experiment: from caption/URL rows to the retrieval table."""

    root_uri: str = Field(default="data", description="folder or fsspec URI under which everything is kept")
    pretraining_dataset: DatasetConfig = Field(description="with a split train, and val where validation is asked for")
    retrieval_dataset: DatasetConfig = Field(description="with the splits train and evaluation_split, and perhaps val")
    download: DownloadConfig = Field(default=DownloadConfig(), description="how images are fetched and stored")
    extractor: ExtractorConfig = Field(default=ExtractorConfig(), description="which detector, and what it keeps")
    vocabulary_path: str = Field(description=VOCABULARY_PATH)
    encoder: EncoderConfig = Field(default=EncoderConfig(), description="size and wiring of the model")
    pretrain: PretrainConfig = Field(default=PretrainConfig(), description="objectives and loop of pretraining")
    finetune: FinetuneConfig = Field(default=FinetuneConfig(), description="loss and loop of finetuning")
    task_specific: FinetuneConfig | None = Field(
        default=None, description="training without pretraining, for comparison; None leaves that row out"
    )
    scoring: ScoringConfig = Field(default=ScoringConfig(), description="how pairs are scored")
    loader: LoaderConfig = Field(default=LoaderConfig(), description="how features are read")
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
        if self.pretraining_dataset.name == self.retrieval_dataset.name:
            raise ValueError(f"both datasets are named {self.retrieval_dataset.name!r}; give them different names")
        for split in ("train", self.evaluation_split):
            if split not in self.retrieval_dataset.splits:
                raise ValueError(f"retrieval_dataset has no split {split!r}")
        if "train" not in self.pretraining_dataset.splits:
            raise ValueError("pretraining_dataset has no split 'train'")
        if self.task_specific is not None and self.task_specific.start != "scratch":
            raise ValueError("task_specific.start must be 'scratch': that is what task-specific means")
        self._check_validation()
        return self

    def _check_validation(self) -> None:
        """Not after days of downloading."""
        pretraining, retrieval = self.pretraining_dataset, self.retrieval_dataset
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
        """`cc3m to flickr30k`: what the experiment is, for people."""
        return f"{self.pretraining_dataset.name} to {self.retrieval_dataset.name}"

    @property
    def datasets(self) -> tuple[DatasetConfig, ...]:
        return (self.pretraining_dataset, self.retrieval_dataset)

    def for_download(self) -> DownloadParams:
        return DownloadParams(
            root_uri=self.root_uri,
            datasets=self.datasets,
            download=self.download,
            max_workers=self.max_workers,
            accept_changes=self.accept_changes,
            max_failed_share=self.max_failed_share,
            ray=self.ray,
        )

    def for_extract(self) -> ExtractParams:
        return ExtractParams(
            root_uri=self.root_uri,
            datasets=self.datasets,
            extractor=self.extractor,
            max_workers=self.max_workers,
            max_failed_share=self.max_failed_share,
            ray=self.ray,
        )

    def for_pretrain(self) -> PretrainParams:
        return PretrainParams(
            root_uri=self.root_uri,
            dataset=self.pretraining_dataset.name,
            validation_split="val" if "val" in self.pretraining_dataset.splits else None,
            scoring=self.scoring,
            loader=self.loader,
            extractor=self.extractor,
            vocabulary_path=self.vocabulary_path,
            encoder=self.encoder,
            pretrain=self.pretrain,
        )

    def for_finetune(self, finetune: FinetuneConfig | None = None) -> FinetuneParams:
        """Parameters of the finetuning run, or of another one such as `task_specific`."""
        config = finetune or self.finetune
        return FinetuneParams(
            root_uri=self.root_uri,
            dataset=self.retrieval_dataset.name,
            validation_split="val" if "val" in self.retrieval_dataset.splits else None,
            extractor=self.extractor,
            vocabulary_path=self.vocabulary_path,
            encoder=self.encoder,
            finetune=config,
            scoring=self.scoring,
            loader=self.loader,
            pretraining=self.for_pretrain() if config.start == "pretrained" else None,
        )

    def for_evaluate(self, setting: Setting) -> EvaluateParams:
        return EvaluateParams(
            root_uri=self.root_uri,
            setting=setting,
            variant=self.variant,
            dataset=self.retrieval_dataset.name,
            split=self.evaluation_split,
            extractor=self.extractor,
            scoring=self.scoring,
            loader=self.loader,
            pretraining=self.for_pretrain() if setting == "zero-shot" else None,
            finetuning=None
            if setting == "zero-shot"
            else self.for_finetune(self.task_specific if setting == "task-specific" else self.finetune),
        )

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The rows of the table that this experiment can fill, beside chance."""
        if self.task_specific is None:
            return ("zero-shot", "pretrain+finetune")
        return ("zero-shot", "task-specific", "pretrain+finetune")
