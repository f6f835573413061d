"""The parameters of every flow: frozen models, composed from the rooms' configs. They check that the rooms agree.

`RebuildParams` is a whole experiment. A stage's own parameters are a part of it, so one JSON file serves every
command, deployment and history row.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field, field_validator, model_validator

from feature_extraction.config import ExtractorConfig
from flows.shard_params import DownloadParams, ExtractParams, Params
from model.config import (
    VOCABULARY_PATH,
    EncoderConfig,
    FinetuneConfig,
    LoaderConfig,
    LoopConfig,
    PretrainConfig,
    ScoringConfig,
)
from tasks import runs, train
from tasks.config import DatasetConfig, DownloadConfig, Name, NodesConfig
from tasks.evaluate import EvaluationSpec
from tasks.ray_config import RayConfig
from tasks.records import CheckpointRef, Stage
from tasks.runs import CheckpointChoice, RunRef
from tasks.storage import Root
from tasks.training_data import DataSpec, resolve_data

Setting = runs.Setting


_ROOT = Field(description="folder or fsspec URI under which everything is kept")
_NODES = Field(
    default=None,
    description="the machines that train this run together, of which this is one; each is given the same parameters "
    "but for node_rank. They share the batch, and are no part of what the run is. None: this machine alone",
)


class PretrainParams(Params):
    """Feature shards of the pretraining dataset to a pretrained checkpoint."""

    root_uri: str = _ROOT
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

    def spec(self) -> train.PretrainSpec:
        return train.PretrainSpec(
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

    root_uri: str = _ROOT
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

    def spec(self) -> train.FinetuneSpec:
        return train.FinetuneSpec(
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


class EvaluateParams(Params):
    """A checkpoint and a retrieval split to one row of the history.

    The checkpoint is one of a run that is described by its parameters (setting, extractor, and pretraining or
    finetuning), or of one that is named (run) and so says all that by itself.
    """

    root_uri: str = _ROOT
    run: str | None = Field(default=None, description="name of a run under ROOT/runs, instead of its parameters")
    setting: Setting | None = Field(default=None, description="row of the table, and by it which run is scored")
    variant: str | None = Field(default=None, description="see RebuildParams.variant")
    dataset: Name = Field(description="name of the dataset")
    split: Name = Field(default="test", description="of the dataset: what is scored")
    extractor: ExtractorConfig | None = Field(default=None, description="which detector found the regions")
    checkpoint: CheckpointChoice = Field(
        default="result",
        description="result: that of a complete run; newest: the one of most steps, of a run under way, too; or a step",
    )
    max_drop: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="fail where the mean of R@1, R@5 and R@10 both ways (recall sum / 6) is more than this below the "
        "best earlier one of the same setting, data and main protocol; .02 is two percentage points. None: never",
    )
    scoring: ScoringConfig = Field(default=ScoringConfig(), description="how pairs are scored")
    loader: LoaderConfig = Field(default=LoaderConfig(), description="how features are read")
    positives: tuple[str, ...] = Field(
        default=(),
        description="other ground truths that the scores are measured by, too, such as those of ECCV Caption and CxC: "
        "of each, NAME_image_to_caption.json or the NAME_caption_to_image.json beside it",
    )
    positives_ids: str | None = Field(
        default=None,
        description="file of captions that gives images and captions the ids of positives: Karpathy's json or COCO's. "
        "None: the one that the split was downloaded from, or else our keys, as numbers",
    )
    pretraining: PretrainParams | None = Field(default=None, description="for zero-shot: the run that is scored")
    finetuning: FinetuneParams | None = Field(default=None, description="for the other settings: the run scored")

    @field_validator("checkpoint", mode="before")
    @classmethod
    def _read_checkpoint(cls, value: object) -> object:
        """A step may be written as a text, as a command line does."""
        return runs.checkpoint_choice(str(value))

    @model_validator(mode="after")
    def _check_positives(self) -> EvaluateParams:
        if self.positives_ids is not None and not self.positives:
            raise ValueError("positives_ids gives ids to the files of positives, and there are none; name them")
        return self

    @model_validator(mode="after")
    def _check_run(self) -> EvaluateParams:
        described = ("setting", "extractor", "pretraining", "finetuning")
        given = [name for name in described if getattr(self, name) is not None]
        if self.run is not None:
            if given:
                raise ValueError(f"run={self.run!r} says by itself what it is; leave {', '.join(given)} out")
            return self
        if self.setting is None:
            raise ValueError("name the run that is scored: set run, or setting and the parameters of its training")
        needed = "pretraining" if self.setting == "zero-shot" else "finetuning"
        for name in ("extractor", needed):
            if name not in given:
                raise ValueError(f"setting={self.setting!r} needs {name}")
        start = {"task-specific": "scratch", "pretrain+finetune": "pretrained"}.get(self.setting)
        if start is not None and self.finetuning is not None and self.finetuning.finetune.start != start:
            raise ValueError(f"setting={self.setting!r} scores a run with finetune.start={start!r}")
        return self

    @property
    def subject(self) -> str:
        """What is scored, in a word."""
        return self.run or self.setting or ""

    @property
    def seed(self) -> int:
        """Of the run that the parameters describe. A run that is named knows its own: see `tasks.runs.find_run`."""
        assert self.run is None
        if self.setting == "zero-shot":
            assert self.pretraining is not None
            return self.pretraining.pretrain.seed
        assert self.finetuning is not None
        return self.finetuning.finetune.seed

    def spec(self, root: Root) -> EvaluationSpec:
        """The checkpoint, and the features of the split that it reads.

        Raises:
            UserError: one of them is not there.
        """
        if self.run is not None:
            run = runs.find_run(root, self.run)
            checkpoint = runs.choose_checkpoint(root, run, self.checkpoint)
            data = runs.data_for(root, checkpoint, self.dataset, self.split, self.loader)
        else:
            assert self.extractor is not None
            run, result = self._described_run(root)
            checkpoint = result() if self.checkpoint == "result" else runs.choose_checkpoint(root, run, self.checkpoint)
            split = DataSpec(self.dataset, self.split, self.extractor, self.loader)
            data = resolve_data(root, split)
        return EvaluationSpec(
            setting=run.setting,
            seed=run.seed,
            checkpoint=checkpoint,
            dataset=self.dataset,
            split=self.split,
            data=data,
            scoring=self.scoring,
            variant=self.variant,
            positives=self.positives,
            positives_ids=self.positives_ids,
        )

    def _described_run(self, root: Root) -> tuple[RunRef, Callable[[], CheckpointRef]]:
        """The run that the parameters describe, and what finds its result or says which command makes it."""
        assert self.setting is not None
        if self.setting == "zero-shot":
            assert self.pretraining is not None
            pretraining = self.pretraining.spec()
            run = RunRef(train.pretraining_run(root, pretraining), Stage.PRETRAIN, self.setting, self.seed)
            return run, lambda: train.find_pretrained(root, pretraining)
        assert self.finetuning is not None
        finetuning = self.finetuning.spec()
        run = RunRef(train.finetuning_run(root, finetuning), Stage.FINETUNE, self.setting, self.seed)
        return run, lambda: train.find_finetuned(root, finetuning)


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
