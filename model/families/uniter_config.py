"""Wiring of UNITER's encoder (arXiv:1909.11740). Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from model.families.config import EncoderConfig


class UniterConfig(EncoderConfig):
    """[CLS] words [SEP] regions through one BERT; its pooler stands before every head that reads [CLS]."""

    family: Literal["uniter"] = Field(default="uniter", description="how words and regions become states")
    max_text_tokens: int = Field(
        default=62, ge=4, description="longest [CLS] words [SEP], tokens: the paper's 60 pieces and two marks"
    )
    pooler: Literal[True] = Field(default=True, description="BERT's pooler, a tanh layer on [CLS]; always there")
    type_rows: int = Field(
        default=2,
        ge=2,
        le=4,
        description="rows of the type table. 2: words and regions; 3: row 2 is a second image's regions (NLVR2); 4: "
        "row 2 is an answer's words and row 3 a rationale's (VCR)",
    )
