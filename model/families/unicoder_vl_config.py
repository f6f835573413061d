"""Wiring of Unicoder-VL's encoder (arXiv:1908.06066, v1 and v3). Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from feature_extraction.identity import Identity
from model.families.config import EncoderConfig


class UnicoderVLConfig(EncoderConfig):
    """[CLS] words [SEP] regions [SEP] through one BERT."""

    family: Annotated[Literal["unicoder-vl"], Identity.UNLESS_DEFAULT] = Field(
        default="unicoder-vl", description="how words and regions become states"
    )
    box_code: Literal["corners", "corners_area"] = Field(
        default="corners_area",
        description="corners: x0/W, y0/H, x1/W, y1/H (v1); corners_area adds the box's share of the image (v3)",
    )
    region_fusion: Literal["concat", "sum"] = Field(
        default="sum",
        description="concat: one linear layer of [feature; box code] (v1); "
        "sum: linear of the feature + linear of the box code (v3)",
    )
    feature_norm: Literal["none", "layer", "standard"] = Field(
        default="none",
        description="what is done to the raw feature before its projection. none: nothing (the paper); layer: "
        "LayerNorm; standard: each dimension's mean and spread over training images taken out. For small models and "
        "detectors of unusual feature scale",
    )
    image_token: bool = Field(
        default=True,
        description="a learned vector, the same for all regions, is added to each: the [IMG] token of v3; v1 has none",
    )
    segments: Literal["modality", "none"] = Field(
        default="none",
        description="modality: BERT's segment embedding tells words from regions (v1); none: word and position only, "
        "as v3 lists them; the [IMG] token tells regions apart there",
    )
    region_position: Literal["none", "shared"] = Field(
        default="none",
        description="position embedding of regions, which neither version states. none: their box is their place; "
        "shared: all have the position after the longest possible caption",
    )
    closing_sep: bool = Field(
        default=True,
        description="a closing [SEP] after the regions: v1 counts three special tokens in its 144, and names two",
    )

    @property
    def closing_marks(self) -> int:
        """The closing [SEP]."""
        return int(self.closing_sep)
