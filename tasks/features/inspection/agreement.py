"""Tables of the page on features that hold labels against captions, and one feature set against another."""

from __future__ import annotations

from html import escape

from tasks.features.inspection.caption_agreement import CaptionAgreement
from tasks.features.inspection.comparison import Comparison
from tasks.features.inspection.doubts import comparison_text
from tasks.features.inspection.region_statistics import RegionStatistics

_NO_VALUE = "–"


def captions_section(found: CaptionAgreement | None) -> str:
    """How often captions hold the words of their pictures' labels. Empty where there are no captions."""
    if found is None:
        return ""
    rows = []
    for word in found.words:
        times = _NO_VALUE if word.times is None else f"{word.times:.1f}"
        mark = f'<td class="warn">{times} ◀</td>' if word.is_wrong else f"<td>{times}</td>"
        rows.append(
            f'<tr><th scope="row">{escape(word.word)}</th><td>{word.images:,}</td><td>{word.own:.1%}</td>'
            f"<td>{word.others:.1%}</td>{mark}</tr>"
        )
    return (
        f"<p>Words of the labels stand in <b>{found.own:.1%}</b> of their own pictures’ captions and in "
        f"<b>{found.others:.1%}</b> of other pictures’.</p>"
        '<p class="note">A caption need not name all that is to be seen, but a word that is no more frequent where its '
        "regions are is marked: a wrong vocabulary or colour order looks so.</p>"
        + _table(("word", "images", "own captions", "others’", "times"), "".join(rows))
    )


def comparison_section(found: Comparison | None) -> str:
    """Two feature sets side by side, and what each calls differently. Empty where there is one alone."""
    if found is None:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{here}</td><td>{there}</td></tr>'
        for (name, here), (_, there) in zip(_numbers(found.here), _numbers(found.there), strict=True)
    )
    swaps = "".join(
        f'<tr><th scope="row">{escape(swap.here)}</th><td class="text">{escape(swap.there)}</td>'
        f"<td>{swap.regions:,}</td></tr>"
        for swap in found.swaps
    )
    text = comparison_text(found)
    return f"<p>{escape(text[0].upper() + text[1:])}.</p>{_table(('', 'this set', found.other), rows)}" + (
        "<h3>Called differently</h3>" + _table(("here", "there", "regions"), swaps) if swaps else ""
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


def _table(heads: tuple[str, ...], rows: str) -> str:
    cells = "".join(f'<th scope="col"{" class=text" if head == "there" else ""}>{escape(head)}</th>' for head in heads)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'
