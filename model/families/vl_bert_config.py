"""Wiring of VL-BERT's encoder (arXiv:1908.08530, and its published program where it differs). Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from model.families.config import EncoderConfig


class VLBertConfig(EncoderConfig):
    """[CLS] words [SEP], the whole picture, regions, [END] through one BERT; every word carries a picture."""

    family: Literal["vl-bert"] = Field(default="vl-bert", description="how words and regions become states")
    max_text_tokens: int = Field(
        default=64, ge=4, description="longest [CLS] words [SEP], or row of text alone, tokens; the rest is cut off"
    )

    @property
    def closing_marks(self) -> int:
        """[END]."""
        return 1

    @property
    def picture_regions(self) -> int:
        return 1

    @model_validator(mode="after")
    def _check_positions(self) -> VLBertConfig:
        if self.max_text_tokens + 2 > self.max_positions:
            raise ValueError(
                f"max_text_tokens={self.max_text_tokens} must be at most max_positions={self.max_positions} less 2: "
                "regions and [END] take a position each"
            )
        return self
