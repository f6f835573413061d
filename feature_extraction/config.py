"""What the extractor does to an image. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ExtractorConfig(BaseModel):
    """Detector, selection rule and encoding: every field changes the features, so every field is fingerprinted.

    Two exceptions, `batch_size` and `device`, change the speed alone and are left out of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["torchvision", "detectron2"] = Field(default="detectron2", description="which library detects")
    model: str = Field(
        default="COCO-Detection/faster_rcnn_R_101_C4_3x.yaml",
        description="Detectron2: a config file or model-zoo name. torchvision: 'small' (the demo's detector)",
    )
    weights: str | None = Field(
        default=None,
        description="path of the weights; its sha256 enters the fingerprint, not its name. "
        "None takes the model zoo's own weights for a model-zoo name",
    )
    vocabulary: str | None = Field(
        default=None,
        description="file with one label name a line, one line per foreground class; "
        "None takes the names that come with the model",
    )
    max_regions: int = Field(default=100, ge=1, le=1000, description="R, regions kept per image")
    min_score: float = Field(default=0.0, ge=0, le=1, description="regions below this score are dropped")
    min_regions: int = Field(default=0, ge=0, description="kept even below min_score, best first (adaptive 10..100)")
    selection: Literal["argmax"] = Field(
        default="argmax",
        description="argmax: best foreground class per proposal, one class-agnostic NMS, top max_regions by score",
    )
    nms_threshold: float = Field(default=0.5, gt=0, le=1, description="IoU above which the lower score goes")
    num_proposals: int = Field(default=300, ge=1, description="proposals classified per image")
    encoding: Literal["sqrt8", "fp16"] = Field(
        default="sqrt8", description="features on disk: square-root uint8 per region, or exact half precision"
    )
    batch_size: int = Field(default=8, ge=1, description="images of equal shape per detector call")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")

    @model_validator(mode="after")
    def _check_counts(self) -> ExtractorConfig:
        if self.min_regions > self.max_regions:
            raise ValueError(f"min_regions={self.min_regions} exceeds max_regions={self.max_regions}")
        return self
