"""Reasons to doubt features, as sentences for the page and the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from feature_extraction.config import RANDOM_WARNING
from tasks.features.inspection.caption_agreement import odds_ratio
from tasks.features.inspection.comparison import Comparison
from tasks.features.inspection.inspection import Inspection

_FEWEST_SAME = 0.5
_LEAST_ODDS = 1.5
_FEWEST_IMAGES = 50
_SAME_VECTORS = 0.95  # cosine


def warnings(details: Mapping[str, Any]) -> list[str]:
    """Warnings from the extractor's details, for all who look at the features."""
    named = [(name.rpartition(".")[2], str(value)) for name, value in flat(details)]
    found = [value for name, value in named if name in ("warning", "note")]
    is_random = any(name.startswith("weights") and value.startswith("random") for name, value in named)
    if is_random and RANDOM_WARNING not in found:
        found.append(RANDOM_WARNING)
    return found


def doubts(inspection: Inspection) -> list[str]:
    """Doubts that the numbers raise: a vocabulary or colour order that is not the detector's."""
    found = []
    captions = inspection.captions
    if captions is not None and captions.images >= _FEWEST_IMAGES:
        if odds_ratio(captions.own, captions.others) < _LEAST_ODDS:
            found.append(
                f"labels have little to do with captions: their words occur in {captions.own:.1%} of their own "
                f"pictures' captions and in {captions.others:.1%} of other pictures'; is the vocabulary the detector's?"
            )
        elif captions.wrong_words:
            found.append(
                f"regions called {', '.join(captions.wrong_words)} are in pictures whose captions say so no more often "
                "than others': are colour order and vocabulary right?"
            )
    compared = inspection.comparison
    if compared is not None and compared.same_label < _FEWEST_SAME:
        swap = f", such as {compared.swaps[0].here} for {compared.swaps[0].there}" if compared.swaps else ""
        same_vectors = compared.cosine is not None and compared.cosine >= _SAME_VECTORS
        question = "is the vocabulary right?" if same_vectors else "are colour order and vocabulary right?"
        found.append(
            f"only {compared.same_label:.1%} of the regions that are in {compared.other}, too, have the same label "
            f"there{swap}: {question}"
        )
    return found


def comparison_text(compared: Comparison) -> str:
    """The comparison with another feature set in a sentence."""
    cosine = "" if compared.cosine is None else f", mean cosine of their features {compared.cosine:.3f}"
    return (
        f"against {compared.other}, over {compared.images:,} images: {compared.matched:.1%} of the regions are there, "
        f"too, {compared.same_label:.1%} of these with the same label{cosine}"
    )


def flat(details: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested details to (dotted name, value)."""
    for name, value in details.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
