"""Configuration of pretraining: masking, wrong pairs, weights of the losses. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from feature_extraction.identity import Identity
from model.config import Config, LoopConfig


class WordMasking(Config):
    """Which word pieces are targets of the masked-word loss, and what stands in their place. The rest stay as they are.

    Defaults are v3's, where every target becomes [MASK]; v1 masks as BERT does: 80% [MASK], 10% random, 10% kept.
    """

    rate: float = Field(default=0.15, ge=0, lt=1, description="share of the pieces that are targets; 0: no word task")
    mask_share: float = Field(default=1.0, ge=0, le=1, description="share of the targets that become [MASK]")
    random_share: float = Field(default=0.0, ge=0, le=1, description="share that become another, random piece")
    at_least_one: bool = Field(
        default=True,
        description="one piece is a target where chance picked none, so that short captions teach something too (BERT "
        "and UNITER do so; Unicoder-VL says nothing of it)",
    )
    forced: Annotated[Literal["drawn", "first"], Identity.UNLESS_DEFAULT] = Field(
        default="drawn",
        description="which piece that is. drawn: each with the same probability, hidden as any other; first: the first "
        "of the caption, always by [MASK], as UNITER's program does",
    )
    random_from: Annotated[str | None, Identity.UNLESS_DEFAULT] = Field(
        default=None,
        min_length=1,
        description="random pieces come from this one and those after it: UNITER's from '!', the first that is no "
        "placeholder in bert-base-cased. None: from all but the special tokens",
    )

    whole_words: Annotated[bool, Identity.UNLESS_DEFAULT] = Field(
        default=False,
        description="words are drawn and not pieces: all pieces of one are hidden, each by its own random piece where "
        "it is not [MASK] (VL-BERT)",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> WordMasking:
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"mask_share={self.mask_share} and random_share={self.random_share} exceed 1 together")
        return self


class RegionMasking(Config):
    """Which regions are hidden, and what stands in their feature's place. The rest keep it; boxes always stay.

    Defaults are v3's. v1: 80% a random vector, 10% the feature of a region of another image, 10% kept; it leaves the
    share of the regions open, and v3's 15% is taken.
    """

    rate: float = Field(default=0.15, ge=0, lt=1, description="share of the regions that are hidden; 0: no label task")
    zero_share: float = Field(default=0.9, ge=0, le=1, description="share of the hidden that become zeros")
    noise_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share that become a random vector: normal, mean 0, of the spread of the image's features (v1 "
        "names no distribution)",
    )
    swap_share: float = Field(default=0.0, ge=0, le=1, description="share that take a feature of another image")
    at_least_one: Annotated[bool, Identity.UNLESS_DEFAULT] = Field(
        default=False, description="one region is hidden where chance picked none (UNITER)"
    )

    @model_validator(mode="after")
    def _check_shares(self) -> RegionMasking:
        if (total := self.zero_share + self.noise_share + self.swap_share) > 1 + 1e-9:
            raise ValueError(f"zero_share, noise_share and swap_share are {total} together; at most 1 is possible")
        return self


OBJECTIVES = {
    "mlm": "masked_words",
    "moc": "masked_labels",
    "vlm": "matching",
    "itm": "two_way_matching",
    "mrfr": "hidden_features",
    "mrc": "hidden_classes",
    "mrc-kl": "hidden_distributions",
    "mvrc": "region_distributions",
    "mvrc-hard": "region_categories",
    "mlm-text": "masked_text",
}
"""Every objective's name, and its file in this folder."""
MATCHING = ("vlm", "itm")
"""Those that learn whether image and caption belong together."""
_WEIGHTS = {"word_weight": "mlm", "label_weight": "moc", "matching_weight": "vlm"}
"""Fields of before, when there were these three objectives alone. Runs are known by them."""


class TokenBatches(Config):
    """A step is a number of buckets of captions and images of like length, each filled up to so many tokens.

    UNITER's 10,240 tokens, times 8 GPUs and 2 accumulated batches.
    """

    tokens: int = Field(
        default=10_240, ge=1, description="most tokens of a bucket: pairs times the longest caption and region list"
    )
    buckets: int = Field(default=16, ge=1, description="buckets per optimiser step, over all devices")
    device_tokens: Annotated[int | None, Identity.NEVER] = Field(
        default=None,
        ge=1,
        description="most tokens that one device takes at once; a bucket is worked off in as many parts, their "
        "gradients added. None: a bucket as a whole",
    )


Share = Annotated[float, Field(gt=0)] | dict[str, Annotated[float, Field(ge=0)]]
"""A corpus's share of the steps: one number, or one for each of its objectives."""


class PretrainConfig(LoopConfig):
    """What pretraining learns: which objectives, what is hidden for them, how pairs are made wrong."""

    renamed: ClassVar[Mapping[str, str]] = {name: f"objectives.{objective}" for name, objective in _WEIGHTS.items()}

    steps: int = Field(default=150_000, ge=1, description="optimiser steps")
    batch_size: int = Field(default=192, ge=1, description="captions per optimiser step, over all devices")
    word_masking: WordMasking = Field(default=WordMasking(), description="which word pieces are hidden, and how")
    region_masking: RegionMasking = Field(default=RegionMasking(), description="which regions are hidden, and how")
    hide: Literal["both", "one"] = Field(
        default="both",
        description="both: words and regions of a pair are hidden at once (v1, v3); one: only words or only regions, "
        "drawn for each pair (conditional masking, as UNITER argues for)",
    )
    min_label_score: float = Field(
        default=0.0, ge=0, le=1, description="masked regions below this score are no label target"
    )
    matching: Literal["replace", "paired", "none"] = Field(
        default="replace",
        description="replace: half the pairs are made wrong (paper); paired: every caption is fed twice, in its own "
        "pair and in a wrong one; none: no wrong pair and no matching loss",
    )
    negative: Literal["image", "image_or_caption"] = Field(
        default="image_or_caption",
        description="what is replaced in a wrong pair. image: the image (v1); image_or_caption: one of both, by a fair "
        "coin (v3). The other one comes from the same window of shards",
    )
    mismatched_losses: bool = Field(
        default=False,
        description="True adds word and label losses of wrong pairs. v3 leaves them out; v1 is silent, and its recipe "
        "follows v3",
    )
    objectives: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={"mlm": 1.0, "moc": 1.0, "vlm": 1.0},
        min_length=1,
        description="what is learnt, and each one's weight in the sum of losses, or with combine=draw its share of the "
        "steps. mlm: masked words; moc: the labels of masked regions; vlm: whether image and caption match. Both "
        "versions of Unicoder-VL sum these three unweighted. Of UNITER: itm: whether they match, as two classes, with "
        "word-region alignment; mrfr: the features of masked regions; mrc: their likeliest classes; mrc-kl: the "
        "detector's distributions over classes, which the features must hold. Of VL-BERT: mvrc: these distributions as "
        "its program has them; mvrc-hard: the likeliest classes, as its paper does; mlm-text: masked words of rows of "
        "text alone, as many as pairs",
    )
    alignment_weight: Annotated[float, Identity.UNLESS_DEFAULT] = Field(
        default=0.1,
        ge=0,
        description="weight, within itm, of word-region alignment (WRA): optimal transport's distance of right pairs "
        "less that of wrong ones. 0: none, and no time spent on it",
    )
    vector_losses: Annotated[Literal["mean", "sum"], Identity.UNLESS_DEFAULT] = Field(
        default="mean",
        description="of mrfr and mrc-kl, over the values of a region. mean: as UNITER's program minimises, 1/2048 and "
        "1/1601 of what its paper writes; sum: the paper's",
    )
    joint_length: Annotated[int | None, Identity.UNLESS_DEFAULT] = Field(
        default=None,
        ge=4,
        description="most word pieces and regions of a pair, the whole picture being a region where the family has it. "
        "While there are more, the last region goes where regions are more than pieces, else the piece before [SEP] "
        "(VL-BERT: 64). None: as many as the encoder reads of each",
    )
    combine: Annotated[Literal["sum", "draw"], Identity.UNLESS_DEFAULT] = Field(
        default="sum",
        description="sum: every step minimises the weighted sum (Unicoder-VL); draw: every step has one objective, "
        "drawn by its share, the same in all processes, and only what it predicts is hidden (UNITER)",
    )
    corpora: Annotated[dict[str, Share], Identity.UNLESS_DEFAULT] = Field(
        default={},
        description="several corpora, DATASET/SPLIT each, and their shares of the steps: every step reads one of them, "
        "drawn by its share, the same in all processes. With combine=draw the step's corpus and objective are drawn "
        "together: by the product of both shares, or for a corpus whose share is an object of objectives, such as "
        '{"mlm": 8, "vlm": 6}, by the number there (UNITER). Empty: the one corpus that the run is given',
    )
    token_batches: Annotated[TokenBatches | None, Identity.UNLESS_DEFAULT] = Field(
        default=None,
        description="batches of so many tokens instead of batch_size captions (UNITER). None: batch_size captions",
    )
    validation_pairs: Annotated[int, Identity.NEVER] = Field(
        default=1000, ge=1, description="held-out captions, always the same and masked alike, that a validation reads"
    )
    quick_recall_images: Annotated[int, Identity.NEVER] = Field(
        default=100,
        ge=0,
        description="held-out images, always the same, over which a validation measures recall with all their "
        "captions; 0: no recall",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_weights_of_before(cls, values: Any) -> Any:
        """Read the weight of the masked-word loss as that of mlm, and so on."""
        if not isinstance(values, dict) or not (old := _WEIGHTS.keys() & values.keys()):
            return values
        default = cls.model_fields["objectives"].default
        given = values.get("objectives", default)
        if not isinstance(given, dict):
            return values
        return {name: value for name, value in values.items() if name not in old} | {
            "objectives": given | {_WEIGHTS[name]: values[name] for name in old}
        }

    @model_validator(mode="after")
    def _check_objectives(self) -> PretrainConfig:
        if unknown := self.objectives.keys() - OBJECTIVES.keys():
            raise ValueError(f"there is no objective {sorted(unknown)[0]!r}; known are {', '.join(OBJECTIVES)}")
        if "mlm-text" in self.objectives and self.token_batches is not None:
            raise ValueError(
                "mlm-text takes as many rows of text as pairs, but token_batches leaves their number open; leave "
                "one out"
            )
        if self.combine == "draw" and not sum(self.objectives.values()):
            raise ValueError("objectives are all 0, so combine=draw has none to draw; give one a share")
        self._check_corpora()
        return self

    def _check_corpora(self) -> None:
        if len(self.corpora) == 1:
            raise ValueError("corpora names one corpus; name at least two, or leave it out and train on that dataset")
        for name, share in self.corpora.items():
            if not all(name.partition("/")):
                raise ValueError(f"corpora: {name!r} is not DATASET/SPLIT, such as cc3m/train")
            if not isinstance(share, dict):
                continue
            if self.combine == "sum":
                raise ValueError(
                    f"corpora: {name} has a share for each objective, but combine=sum trains all of them in every "
                    "step; give it one number, or set combine=draw"
                )
            if unknown := share.keys() - self.objectives.keys():
                raise ValueError(
                    f"corpora: {name} has a share for {sorted(unknown)[0]!r}, which is none of the objectives: "
                    f"{', '.join(self.objectives)}"
                )
            if not sum(share.values()):
                raise ValueError(f"corpora: the shares of {name} are all 0; leave it out, or give one a share")

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of the objectives, in the order of `OBJECTIVES`."""
        return tuple(name for name in OBJECTIVES if name in self.objectives)

    @property
    def learns_matching(self) -> bool:
        """Whether the model can tell matched pairs from wrong ones, so that it ranks before it is finetuned."""
        return any(name in self.objectives for name in MATCHING)

    def weight(self, objective: str) -> float:
        """Of its loss: a drawn objective is all that its step minimises."""
        return self.objectives[objective] if self.combine == "sum" else 1.0

    def identity(self) -> dict[str, Any]:
        """As of every loop. Where the three objectives of before are summed, by the fields of before."""
        identity = super().identity()
        if self.objectives.keys() == set(_WEIGHTS.values()):
            weights = identity.pop("objectives")
            identity |= {name: weights[objective] for name, objective in _WEIGHTS.items()}
        return identity
