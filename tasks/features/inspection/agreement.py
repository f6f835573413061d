"""Tables of the page on features that hold labels against captions, and one feature set against another."""

from __future__ import annotations

from markupsafe import Markup

from tasks.features.inspection.caption_agreement import CaptionAgreement
from tasks.features.inspection.comparison import Comparison
from tasks.features.inspection.doubts import comparison_text
from tasks.features.inspection.region_statistics import RegionStatistics
from tasks.pages.page import render


def captions_section(found: CaptionAgreement | None) -> Markup:
    """How often captions hold the words of their pictures' labels. Empty where there are no captions."""
    return Markup() if found is None else render("features/inspection/captions.html", found=found)


def comparison_section(found: Comparison | None) -> Markup:
    """Two feature sets side by side, and what each calls differently. Empty where there is one alone."""
    if found is None:
        return Markup()
    text = comparison_text(found)
    return render(
        "features/inspection/comparison.html",
        about=text[0].upper() + text[1:],
        other=found.other,
        numbers=[
            (name, here, there)
            for (name, here), (_, there) in zip(_numbers(found.here), _numbers(found.there), strict=True)
        ],
        swaps=[(swap.here, swap.there, f"{swap.regions:,}") for swap in found.swaps],
    )


def _numbers(statistics: RegionStatistics) -> list[tuple[str, str]]:
    return [
        ("regions an image", f"{statistics.regions / max(1, statistics.images):.2f}"),
        ("mean score", f"{statistics.mean_score:.3f}"),
        ("mean background", f"{statistics.mean_background:.3f}"),
        ("mean norm", f"{statistics.mean_norm:.2f}"),
        ("zeros", f"{statistics.zeros:.1%}"),
        ("labels that occur", f"{len(statistics.labels):,}"),
    ]
