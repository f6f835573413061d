"""Each field's mark decides whether it is part of its config's identity, in configs within configs too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from feature_extraction.identity import Identity, choice_of, identity_of, in_identity


class Part(BaseModel):
    width: int = 3
    threads: Annotated[int, Identity.NEVER] = 1
    later: Annotated[float, Identity.UNLESS_DEFAULT] = Field(default=0.5, ge=0)


class Whole(BaseModel):
    first: Part = Part()
    more: tuple[Part, ...] = ()
    named: dict[str, Part | float] = {}
    folder: Path = Path("a")
    weights: Annotated[str | None, Identity.BY_CONTENT] = None
    later_parts: Annotated[tuple[Part, ...], Identity.UNLESS_DEFAULT] = Field(default_factory=tuple)
    best: Annotated[str | None, Identity.CHOICE] = None
    best_of: Annotated[int | None, Identity.CHOICE, Identity.UNLESS_DEFAULT] = None


def test_a_field_enters_unless_its_mark_says_otherwise():
    assert identity_of(Part(threads=9)) == {"width": 3}
    assert identity_of(Part(later=0.25)) == {"width": 3, "later": 0.25}
    assert in_identity(Part) == {"width", "later"}
    assert Part.model_json_schema()["properties"]["later"]["minimum"] == 0


def test_configs_within_a_config_go_by_their_own_marks():
    slow = Part(threads=8)
    assert identity_of(Whole(first=slow, more=[slow, Part(width=4)], named={"b": slow, "a": 2}, weights="w.pth")) == {
        "first": {"width": 3}, "more": [{"width": 3}, {"width": 4}], "named": {"b": {"width": 3}, "a": 2.0},
        "folder": "a",
    }  # fmt: skip
    assert identity_of(Whole(later_parts=(slow,)))["later_parts"] == [{"width": 3}]


def test_a_choice_among_results_stands_apart():
    assert choice_of(Whole(best="loss")) == {"best": "loss"}
    assert choice_of(Whole(best_of=5)) == {"best": None, "best_of": 5}
    assert identity_of(Whole(best="loss", best_of=5)) == identity_of(Whole())
