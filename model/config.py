"""Configuration of the encoder and of both kinds of training. Imports no torch.

Defaults are the AAAI 2020 version of Unicoder-VL (arXiv:1908.06066v3), called v3 here; v1 is the first arXiv version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_extraction.identity import Identity, identity_of

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Of random numbers. Larger ones would not fit all of the generators: some would take two seeds for one."""
Device = Annotated[str, Identity.NEVER, Field(description="auto, cpu, cuda or cuda:N")]
NumProcesses = Annotated[
    int | None,
    Identity.NEVER,
    Field(
        ge=1,
        description="processes of this machine that share the work (each batch, or the blocks of scores), a GPU each. "
        "None: as many as there are GPUs, or one; one, too, where device is cpu or cuda:N",
    ),
]
NumThreads = Annotated[
    int | None, Identity.NEVER, Field(ge=1, description="CPU threads of torch; None leaves torch's choice")
]
VOCABULARY_PATH = (
    "word pieces: a BERT's vocab.txt, one piece a line; its folder; or its name on the Hugging Face hub, such as "
    "google-bert/bert-base-cased. tokenizer_config.json or tokenizer.json beside them say how captions are cut (case, "
    "accents, CJK characters); without these they are lower-cased"
)
"""What `vocabulary_path` is, in every config that has it."""
WORD_RULES = (
    "how captions are cut into word pieces. None: as stated beside vocabulary_path; a run writes what it found there"
)


class Config(BaseModel):
    """Base of this room's configs: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    renamed: ClassVar[Mapping[str, str]] = {}
    """Names of before, and the dotted names that these fields have now: files and settings may still use them."""

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON; see `feature_extraction.identity`."""
        return identity_of(self)


class WordRules(Config):
    """How a text is cut into word pieces, by transformers' names."""

    do_lower_case: bool = Field(default=True, description="text is lower-cased first; False for cased vocabularies")
    strip_accents: bool | None = Field(
        default=None, description="accents are taken off letters first. None: where text is lower-cased"
    )
    tokenize_chinese_chars: bool = Field(default=True, description="each CJK character is a word of its own")
    unk_token: str = Field(default="[UNK]", description="what a word that no pieces make becomes")
    sep_token: str = Field(default="[SEP]", description="after a caption")
    pad_token: str = Field(default="[PAD]", description="fills shorter captions up")
    cls_token: str = Field(default="[CLS]", description="before a caption")
    mask_token: str = Field(default="[MASK]", description="in the place of a hidden piece")

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, values: Any) -> Any:
        """Bring rules that cut alike to one form, whichever way they were stated."""
        if isinstance(values, dict) and values.get("strip_accents") == values.get("do_lower_case", True):
            return values | {"strip_accents": None}
        return values

    def changed(self) -> dict[str, Any]:
        """The rules that differ from bert-base-uncased's; empty for those of runs before there were others."""
        return self.model_dump(exclude_defaults=True)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        return self.pad_token, self.unk_token, self.cls_token, self.sep_token, self.mask_token


class OptimConfig(Config):
    """AdamW with linear warm-up and linear decay to zero."""

    learning_rate: float = Field(default=1e-4, gt=0, description="peak")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean gradient, a step")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the mean squared gradient, a step")
    eps: Annotated[float, Identity.UNLESS_DEFAULT] = Field(
        default=1e-8, gt=0, description="what is added to the root of the mean squared gradient"
    )
    eps_at: Annotated[Literal["corrected", "uncorrected"], Identity.UNLESS_DEFAULT] = Field(
        default="corrected",
        description="to which root. corrected: with its bias at the start taken out (AdamW); uncorrected: before that, "
        "as UNITER's optimiser does, so that it damps the first steps more",
    )
    weight_decay: float = Field(default=0.01, ge=0, description="not on biases and LayerNorms, see decays")
    decay_at: Annotated[Literal["before", "after"], Identity.UNLESS_DEFAULT] = Field(
        default="before",
        description="when weights decay, by rate x weight_decay of them. before: ahead of the update (AdamW); after: "
        "the updated ones, as VL-BERT's optimiser does",
    )
    decays: Annotated[Literal["matrices", "uniter", "all"], Identity.UNLESS_DEFAULT] = Field(
        default="matrices",
        description="which weights decay. matrices: all of more than one dimension (BERT's rule); all: biases and "
        "LayerNorms, too (VL-BERT); uniter: all but "
        "those whose name in UNITER's program contains bias or LayerNorm.weight, so that LayerNorms of other names "
        "decay: of a region's two branches and of heads",
    )
    warmup_share: float = Field(default=0.1, ge=0, le=1, description="share of the steps that warm up")
    schedule: Annotated[Literal["from_zero", "from_one"], Identity.UNLESS_DEFAULT] = Field(
        default="from_zero",
        description="rate of step s, from 1, over w steps of warm-up of S. from_zero: s/(w+1) of the peak, then "
        "(S-s+1)/(S-w); from_one: s/w, then (S-s)/(S-w), and 1e-8 at the last one (UNITER; "
        "VL-BERT but for the last one)",
    )
    gradient_scale: Annotated[float, Identity.UNLESS_DEFAULT] = Field(
        default=1.0,
        gt=0,
        description="the gradient, of the mean over a step's batch, is multiplied by this before it is clipped. UNITER "
        "adds the gradients of its micro-batches up: their number. It counts against max_grad_norm and eps alone",
    )
    max_grad_norm: float | None = Field(
        default=1.0, gt=0, description="longer gradients are scaled to this length. None: however long"
    )


LongTexts = Literal["cut", "drop"]


class LoopConfig(Config):
    """Settings of every training run.

    A run that has begun may be resumed with other values of the fields that are marked as no part of its identity. Of
    these, how a batch is split (`device_batch_size`, `num_processes`) decides rounding and, with dropout, which
    units are drawn; so weights are repeated bit for bit only by the same split.
    """

    steps: int = Field(ge=1, description="optimiser steps")
    batch_size: int = Field(ge=1, description="captions per optimiser step, over all devices")
    seed: Seed = Field(
        default=0, description="of weights, order, masks, wrong pairs and dropout: another one is another run"
    )
    optim: OptimConfig = Field(default=OptimConfig(), description="the optimiser and its rate")
    long_texts: Annotated[LongTexts, Identity.UNLESS_DEFAULT] = Field(
        default="cut",
        description="captions of more than encoder.max_text_tokens. cut: they lose their end; drop: nothing is learnt "
        "from them (UNITER), and how many they are is logged. Validation and scoring read all, cut",
    )
    device_batch_size: Annotated[int | None, Identity.NEVER] = Field(
        default=None,
        ge=1,
        description="most captions that one device takes at once; a larger share of the batch is worked off in equal "
        "parts, their gradients added. None: the share as a whole. Another value only rounds otherwise, but where "
        "dropout is on it draws other units: as good a run, and another one",
    )
    checkpoint_steps: Annotated[int, Identity.NEVER] = Field(
        default=1000, ge=1, description="steps between checkpoints"
    )
    keep_last: Annotated[int, Identity.NEVER] = Field(default=2, ge=1, description="newest checkpoints kept")
    keep_best: Annotated[str | None, Identity.CHOICE] = Field(
        default=None,
        description="name of a validation value, such as validation_recall_sum: the checkpoint that is best by it is "
        "kept too and becomes the run's result. None: the last one is the result",
    )
    best_is: Annotated[Literal["largest", "smallest"], Identity.CHOICE] = Field(
        default="largest", description="of the values of keep_best"
    )
    validation_steps: Annotated[int | None, Identity.CHOICE] = Field(
        default=None, ge=1, description="steps between validations; also after the last step. None: never"
    )
    log_steps: Annotated[int, Identity.NEVER] = Field(
        default=50, ge=1, description="steps between lines of metrics.jsonl"
    )
    max_bad_steps: Annotated[int, Identity.NEVER] = Field(
        default=10,
        ge=0,
        description="steps skipped in a row, because a gradient was not finite, before the run stops; looked at every "
        "log_steps",
    )
    device: Device = "auto"
    num_processes: NumProcesses = None
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="fp32",
        description="bf16: autocast; weights stay fp32. auto: bf16 where all devices compute it and the model is wide "
        "enough that it pays, else fp32; the log says which. Weights depend on it, so auto names a run of its own, "
        "whichever it takes",
    )
    num_threads: NumThreads = None

    @model_validator(mode="after")
    def _check_validation(self) -> LoopConfig:
        if self.keep_best is not None and self.validation_steps is None:
            raise ValueError(f"keep_best={self.keep_best} needs validation_steps: how often that value is measured")
        return self


class AdaptiveRegions(Config):
    """Reads as many regions of an image as score well, the best ones first (UNITER: .2 and 10)."""

    score: float = Field(default=0.2, ge=0, lt=1, description="regions that score more are read")
    least: int = Field(default=10, ge=1, description="regions read of every image that has them, whatever they score")


class LoaderConfig(Config):
    """How features are read.

    Nothing here changes which samples a healthy data set gives, or their order.
    """

    on_bad_shard: Literal["stop", "skip"] = Field(
        default="stop",
        description="a shard that is missing, cut or not what the manifest says. stop: end the run, naming it; skip: "
        "put other samples of its window in the place of its own (see model/data/order.py), name it once, count them",
    )
    read_threads: int = Field(default=4, ge=1, description="threads that read one batch")
    cache_bytes: int = Field(
        default=32 * 1024**3,
        ge=1,
        description="features on an object store: most bytes of shards kept in cache_path. At least two windows, "
        "32 shards of the largest size; 7 GB at 100 regions of 2,048 and 1,024 images a shard",
    )
    fetch_threads: int = Field(default=8, ge=1, description="shards fetched from an object store at once")


class PredictConfig(Config):
    """How a finetuned model's scores of examples are computed, in fp32. Nothing here changes more than rounding."""

    batch_size: Annotated[int, Identity.NEVER] = Field(default=64, ge=1, description="examples per forward pass")
    part_examples: Annotated[int, Identity.NEVER] = Field(
        default=4096, ge=1, description="examples of a part file, which is what a kill costs"
    )
    device: Device = "auto"
    num_threads: NumThreads = None


class FinetuneLoopConfig(LoopConfig):
    """Settings of finetuning for any task."""

    start: Literal["pretrained", "scratch"] = Field(
        default="pretrained", description="pretrained: a pretraining run's weights; scratch: task-specific training"
    )


class Features(Config):
    """The regions of a split's pictures."""

    features_path: str = Field(
        description="folder with manifest.json and regions-*.tar; or its URI on an object store, such as s3://..."
    )
    name: str = Field(description="dataset/split, for messages")
    cache_path: str | None = Field(
        default=None,
        description="local folder for what is derived from the data, so that the next start takes a second (see "
        "model/data/index.py), and for fetched shards; may be shared, and emptied while no run uses it. None: derived "
        "anew at every start and kept in memory, and features must be local",
    )
    loader: LoaderConfig = Field(default=LoaderConfig(), description="how features are read")


class FeatureSource(Features):
    """The regions and captions of a training or scoring job."""

    captions_path: str = Field(description="Parquet with caption_id, image_key, text, split. A path or a URI")


class ExampleSource(Features):
    """The regions and examples of a job of any task but retrieval."""

    examples_path: str = Field(description="table of examples, see model/data/examples.py; a file of this machine")


class TextSource(Config):
    """The text corpus of a training job."""

    text_path: str = Field(
        description="folder with manifest.json and text-*.parquet; or its URI on an object store, such as s3://..."
    )
    name: str = Field(description="dataset/split, for messages")
    cache_path: str | None = Field(
        default=None,
        description="local folder for the passages' word pieces, so that the next start takes a second and all "
        "processes share their memory; may be emptied while no run uses it. None: kept in memory, made at every start",
    )
