"""Parameters of an evaluation."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from feature_extraction.config import ExtractorConfig
from flows.params.fields import DatasetName, Loader, RootUri, Scoring
from flows.params.shards import Params
from flows.params.training import FinetuneParams, PretrainParams, Setting
from model.config import LoaderConfig, PredictConfig
from model.downstream.retrieval.config import ScoringConfig
from tasks.config import Name
from tasks.training.runs import CheckpointChoice, checkpoint_choice


class EvaluateParams(Params):
    """Parameters of an evaluation: a checkpoint and a retrieval split to one row of the history.

    The checkpoint is one of a run that is described by its parameters (setting, extractor, and pretraining or
    finetuning), or of one that is named (run) and so says all that by itself.
    """

    root_uri: RootUri
    run: str | None = Field(default=None, description="name of a run under ROOT/runs, instead of its parameters")
    setting: Setting | None = Field(default=None, description="row of the table, and by it which run is scored")
    variant: str | None = Field(default=None, description="see RebuildParams.variant")
    dataset: DatasetName
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
    scoring: Scoring = ScoringConfig()
    predict: PredictConfig = Field(
        default=PredictConfig(), description="how the examples of a task's run are answered; not for retrieval"
    )
    loader: Loader = LoaderConfig()
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
        """Accept a step as text, as a command line gives it."""
        return checkpoint_choice(str(value))

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
        """The name of what is scored."""
        return self.run or self.setting or ""
