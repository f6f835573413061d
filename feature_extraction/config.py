"""Settings of region extraction. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from feature_extraction.identity import Identity, identity_of
from feature_extraction.samples.regions import CLASS_SCORES_FORMAT, REGION_FORMAT, RegionFormat, RegionLayout

VG_PRESET = "vg-r101-c4"
ZOO_PRESETS = {
    "coco-r50-c4": "COCO-Detection/faster_rcnn_R_50_C4_3x.yaml",
    "coco-r101-c4": "COCO-Detection/faster_rcnn_R_101_C4_3x.yaml",
    "coco-r101-fpn": "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml",
}
"""Short names of Detectron2's own models; the C4 ones give 2048-d features, the FPN one 1024-d."""
TORCHVISION_MODELS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn")
"""torchvision's own models; their features are 1024-d."""
RANDOM_WARNING = "random weights: the detector was never trained, so its labels and features mean nothing"


class ExtractorConfig(BaseModel):
    """Detector, selection rule and encoding.

    Every field changes the features, unless its mark says otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    renamed: ClassVar[Mapping[str, str]] = {"top_labels": "class_scores"}
    """Names of before, and the fields that they are now."""

    backend: Literal["torchvision", "detectron2", "imported"] = Field(
        default="detectron2",
        description="which library detects; imported: none, the features were brought in by import-features",
    )
    model: str = Field(
        default="COCO-Detection/faster_rcnn_R_101_C4_3x.yaml",
        description="Detectron2: a preset (coco-r50-c4, coco-r101-c4, coco-r101-fpn, vg-r101-c4), a config file or a "
        "model-zoo name. torchvision: 'small' (the demo's detector), fasterrcnn_resnet50_fpn, "
        "fasterrcnn_resnet50_fpn_v2 or fasterrcnn_mobilenet_v3_large_fpn. imported: the name of the set's folder "
        "under ROOT/features",
    )
    weights: Annotated[str | None, Identity.BY_CONTENT] = Field(
        default=None,
        description="path of the weights; its sha256 enters the fingerprint, not its name. With Detectron2 a URL is "
        "fetched and kept by its file manager, and counts by its name. 'random' or 'random:SEED' builds an untrained "
        "network, for trials of the mechanics. None takes the weights that come with the model's name",
    )
    trust_weights: Annotated[bool, Identity.NEVER] = Field(
        default=False,
        description="load weights that are more than numbers. A pickle (.pkl, older .pth) can be a program, which "
        "loading it runs with your rights: only for files of people you trust. Those of the model zoos, and others "
        "that hold arrays or tensors alone, load without",
    )
    vocabulary: Annotated[str | None, Identity.BY_CONTENT] = Field(
        default=None,
        description="file with one label name a line, one line per foreground class; "
        "None takes the names that come with the model",
    )
    max_regions: int = Field(default=100, ge=1, le=1000, description="R, regions kept per image")
    min_score: float = Field(default=0.0, ge=0, le=1, description="regions below this score are dropped")
    min_regions: int = Field(default=0, ge=0, description="kept even below min_score, best first (adaptive 10..100)")
    selection: Literal["argmax", "maxconf", "classwise"] = Field(
        default="argmax",
        description="argmax: best foreground class per proposal, one class-agnostic NMS, top max_regions by score. "
        "maxconf: NMS per class, each proposal takes its best class that survives (bottom-up attention). "
        "classwise: NMS per class, top (box, class) pairs, so a proposal may come twice (Detectron2's own)",
    )
    box: Annotated[Literal["refined", "proposal"], Identity.UNLESS_DEFAULT] = Field(
        default="refined",
        description="the box that NMS compares and that is stored: refined for its class, or proposed",
    )
    feature_at: Annotated[Literal["proposal", "final"], Identity.UNLESS_DEFAULT] = Field(
        default="proposal",
        description="where the feature is pooled: at the proposal (the vector that was classified) or, once more, at "
        "the stored box",
    )
    nms_threshold: float = Field(default=0.5, gt=0, le=1, description="IoU above which the lower score goes")
    num_proposals: int = Field(default=300, ge=1, description="proposals classified per image")
    class_scores: Annotated[str, Identity.UNLESS_DEFAULT] = Field(
        default="none",
        pattern=r"^(none|all|top:([1-9]|[1-9][0-9]|100))$",
        description="what is stored of each region's class probabilities. none: those of its label and of the "
        "background; top:K: also the K best foreground classes, 1 to 100, 4 bytes each; all: the whole distribution, "
        "one byte a class",
    )
    precision: Annotated[Literal["fp32", "bf16"], Identity.UNLESS_DEFAULT] = Field(
        default="fp32", description="of the backbone and the box head; boxes, scores and NMS are always fp32"
    )
    encoding: Literal["sqrt8", "fp16"] = Field(
        default="sqrt8", description="features on disk: square-root uint8 per region, or exact half precision"
    )
    batch_size: Annotated[int, Identity.NEVER] = Field(
        default=8, ge=1, description="images of equal shape per detector call"
    )
    device: Annotated[str, Identity.NEVER] = Field(default="auto", description="auto, cpu, cuda or cuda:N")

    @model_validator(mode="before")
    @classmethod
    def _take_top_labels_of_before(cls, values: Any) -> Any:
        """Read `top_labels`, the number of best classes, as `class_scores`."""
        if not isinstance(values, dict) or "top_labels" not in values or "class_scores" in values:
            return values
        return {cls.renamed.get(name, name): value for name, value in values.items()}

    @field_validator("class_scores", mode="before")
    @classmethod
    def _take_number(cls, value: Any) -> Any:
        """Read a number alone as that of the best classes."""
        if isinstance(value, bool) or not isinstance(value, int):
            return value
        return f"top:{value}" if value else "none"

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: str | None) -> str | None:
        if weights is not None:
            _random_seed(weights)
            if "://" in weights and ("@" in urlsplit(weights).netloc or "?" in weights):
                raise ValueError(
                    "the URL of the weights holds a login or a query, which the records of the features would show; "
                    "leave it out, or fetch the file first and give its path"
                )
        return weights

    @model_validator(mode="after")
    def _check_fields(self) -> ExtractorConfig:
        if self.min_regions > self.max_regions:
            raise ValueError(f"min_regions={self.min_regions} exceeds max_regions={self.max_regions}")
        if self.backend == "imported" and not re.fullmatch(r"[0-9a-f]{12,64}", self.model):
            raise ValueError(
                f"backend='imported' needs model to be the folder's name under ROOT/features, twelve hex digits, not "
                f"{self.model!r}"
            )
        if self.backend == "detectron2" and self.model == VG_PRESET:
            if self.weights is None:
                raise ValueError(
                    f"model={VG_PRESET!r} comes without weights; set weights to faster_rcnn_from_caffe.pkl, which "
                    "py-bottom-up-attention publishes"
                )
            if self.vocabulary is None:
                raise ValueError(
                    f"model={VG_PRESET!r} comes without label names; set vocabulary to the objects_vocab.txt of 1,600 "
                    "lines in data/genome/1600-400-20 of bottom-up-attention"
                )
        return self

    @property
    def random_seed(self) -> int | None:
        """Seed of an untrained network; None where `weights` asks for none."""
        return None if self.weights is None else _random_seed(self.weights)

    def fingerprinted(self) -> dict[str, object]:
        """The fields that decide the features.

        `weights` and `vocabulary` are left out: they count by their content.

        A preset that is only a short name of a model of the zoo counts as that model. The K of top:K counts as
        `top_labels`, which it was before there were other class scores.
        """
        fields = identity_of(self) | {"model": ZOO_PRESETS.get(self.model, self.model)}
        if self.num_top:
            del fields["class_scores"]
            fields["top_labels"] = self.num_top
        return fields

    @property
    def format(self) -> RegionFormat:
        """The version of the shards' format, as `RegionLayout.format`."""
        return CLASS_SCORES_FORMAT if self.class_scores == "all" else REGION_FORMAT

    @property
    def num_top(self) -> int:
        """K of class_scores=top:K; 0 otherwise."""
        kind, _, count = self.class_scores.partition(":")
        return int(count) if kind == "top" else 0

    def layout(self, feature_dim: int, num_labels: int) -> RegionLayout:
        """The layout of the records that a detector with so many classes fills."""
        return RegionLayout(
            self.max_regions,
            feature_dim,
            self.encoding,
            num_top=min(self.num_top, num_labels),
            num_classes=num_labels if self.class_scores == "all" else 0,
        )


_SEED_DIGITS = 20


def _random_seed(weights: str) -> int | None:
    """The seed in 'random' (0) or 'random:SEED'; None for a file name."""
    name, colon, seed = weights.partition(":")
    if name != "random":
        return None
    if colon and not (seed.isascii() and seed.isdigit() and len(seed) < _SEED_DIGITS and int(seed) < 2**63):
        raise ValueError(
            f"weights={weights!r} has no seed; give 'random' or 'random:SEED' with a number from 0 to {2**63 - 1}"
        )
    return int(seed or 0)
