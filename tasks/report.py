"""The result of an experiment as one HTML page that needs nothing else: no server, no network, no script."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from PIL import Image
from pydantic import Field

from tasks.charts import bar_chart, line_chart
from tasks.errors import UserError
from tasks.history import read_history
from tasks.page import html_page
from tasks.records import HistoryRow, Outcome, Record
from tasks.storage import REPORT, Root, now, run_folder

Direction = Literal["image_to_text", "text_to_image"]

_DIRECTIONS: tuple[tuple[Direction, str], ...] = (
    ("image_to_text", "image-to-text"),
    ("text_to_image", "text-to-image"),
)
_NEWEST_EVALUATIONS = 50  # rows of the history that are shown; its charts have them all
_THUMBNAIL_SIDE = 256  # pixels
_NO_VALUE = "–"

# Of what a run writes down: these are no curves that a reader compares, and recall@1 stands for the other depths.
_NOT_DRAWN = re.compile(
    r"step|learning_rate|gradient_norm|(steps|samples)_per_second|wait_share|peak_memory_gib|skipped(_samples)?"
    r"|(validation_)?recall_sum|.*_r(?!1$)\d+"
)
_FRACTION = re.compile(r".*accuracy|.*_r1")


class SettingRow(Record):
    """One row of the recall table. Recalls are fractions; the page shows percent."""

    setting: str = Field(description="chance, zero-shot, task-specific, pretrain+finetune, ...")
    image_to_text: dict[int, float] = Field(description="k -> recall@k of images that look for a caption")
    text_to_image: dict[int, float] = Field(description="k -> recall@k of captions that look for their image")
    images: int
    captions: int
    seed: int | None = Field(description="of the training run; None where nothing was trained")

    def recalls(self, direction: Direction) -> dict[int, float]:
        return self.image_to_text if direction == "image_to_text" else self.text_to_image


@dataclass(frozen=True)
class GalleryImage:
    """One retrieved image. Boxes are (x0, y0, x1, y1) in pixels of the JPEG, one label each."""

    jpeg: bytes
    score: float
    correct: bool
    boxes: Sequence[tuple[float, float, float, float]]
    labels: Sequence[str]
    rank: int | None = None


@dataclass(frozen=True)
class GalleryEntry:
    """A query caption and the images that scored best for it, best first; `about` is a line below the caption."""

    caption: str
    images: Sequence[GalleryImage]
    about: str = ""


def make_report(
    root: Root,
    title: str,
    table: Sequence[SettingRow],
    outcomes: Mapping[str, Mapping[str, int]],
    params: Mapping[str, Any],
    gallery: Sequence[GalleryEntry] = (),
    gallery_rule: str = "Best scores first. Boxes are the detected regions.",
) -> str:
    """Write the page to ROOT/report.html and return its full name.

    Training curves come from ROOT/runs, the history from ROOT/history.jsonl; what is not there yet is left out.

    Args:
        title: heading of the page.
        table: rows of the recall table, in the order shown.
        outcomes: "dataset/split" -> outcome -> number of rows, as in the captions receipts.
        params: JSON-able parameters of the experiment.
        gallery: retrieved images to show.
        gallery_rule: what the gallery shows and how it was chosen.

    Raises:
        UserError: a finished line of the history or of a run's metrics is not JSON of the right form.
    """
    sections = [
        ("Retrieval", _recall_table(table)),
        ("Retrieved images", _gallery(gallery, gallery_rule)),
        ("Rows lost on the way", _outcomes(outcomes)),
        ("Training", _training_curves(root)),
        ("History", _history(read_history(root))),
        ("Parameters", _parameters(params)),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections if content)
    root.publish_bytes(REPORT, html_page(title, f"Made at {_minute(now())} UTC", body).encode())
    return root.path(REPORT)


def table_text(table: Sequence[SettingRow]) -> str:
    """The recall table as aligned text for a terminal, in percent, with the protocol below."""
    if not table:
        return "no evaluation yet"
    depths = _depths(table)
    names = [_setting_name(row, table) for row in table]
    width = max(len("setting"), *map(len, names))
    group = 7 * len(depths)
    lines = [
        " " * width + "".join(f"  {label:>{group}}" for _, label in _DIRECTIONS),
        f"{'setting':<{width}}" + ("  " + "".join(f"{f'R@{k}':>7}" for k in depths)) * len(_DIRECTIONS),
    ]
    for name, row in zip(names, table, strict=True):
        cells = "".join(
            "  " + "".join(f"{_percent(row.recalls(direction).get(k)):>7}" for k in depths)
            for direction, _ in _DIRECTIONS
        )
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join([*lines, "", _protocol(table)])


def _recall_table(table: Sequence[SettingRow]) -> str:
    if not table:
        return "<p>No evaluation yet.</p>"
    depths = _depths(table)
    columns = [(direction, k) for direction, _ in _DIRECTIONS for k in depths]
    best = {
        (direction, k): max((row.recalls(direction).get(k, -1.0) for row in table), default=-1.0)
        for direction, k in columns
    }
    groups = "".join(f'<th colspan="{len(depths)}" scope="colgroup">{label}</th>' for _, label in _DIRECTIONS)
    heads = "".join(f'<th scope="col">R@{k}</th>' for _, k in columns)
    lines = []
    for row in table:
        cells = []
        for direction, k in columns:
            value = row.recalls(direction).get(k)
            text = _percent(value)
            cells.append(f"<td><b>{text}</b></td>" if value == best[direction, k] else f"<td>{text}</td>")
        lines.append(f'<tr><th scope="row">{escape(_setting_name(row, table))}</th>{"".join(cells)}</tr>')
    return (
        '<div class="wide"><table class="recall">'
        f'<thead><tr><th rowspan="2" scope="col">setting</th>{groups}</tr><tr>{heads}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div><p class="note">{escape(_protocol(table))}</p>'
    )


def _depths(table: Sequence[SettingRow]) -> list[int]:
    return sorted({k for row in table for direction, _ in _DIRECTIONS for k in row.recalls(direction)})


def _setting_name(row: SettingRow, table: Sequence[SettingRow]) -> str:
    """The setting, with its seed where the table has that setting more than once."""
    repeated = sum(other.setting == row.setting for other in table) > 1
    return f"{row.setting} (seed {row.seed})" if repeated and row.seed is not None else row.setting


def _protocol(table: Sequence[SettingRow]) -> str:
    sizes = {(row.images, row.captions) for row in table}
    rule = "Recall@k in percent; every query ranks all candidates, and ties count against."
    if len(sizes) == 1:
        ((images, captions),) = sizes
        return f"{images:,} images x {captions:,} captions. {rule}"
    listed = "; ".join(f"{row.setting} {row.images:,} images x {row.captions:,} captions" for row in table)
    return f"Rows were measured on different data and cannot be compared: {listed}. {rule}"


def _percent(fraction: float | None) -> str:
    return _NO_VALUE if fraction is None else f"{100 * fraction:.1f}"


def _gallery(entries: Sequence[GalleryEntry], rule: str) -> str:
    if not entries:
        return ""
    blocks = []
    for entry in entries:
        cards = "".join(f"<li>{_retrieved(image)}</li>" for image in entry.images)
        about = f'<p class="note">{escape(entry.about)}</p>' if entry.about else ""
        blocks.append(f'<h3 class="caption">“{escape(entry.caption)}”</h3>{about}<ol class="gallery">{cards}</ol>')
    return f'<p class="note">{escape(rule)}</p>' + "".join(blocks)


def _retrieved(retrieved: GalleryImage) -> str:
    """A thumbnail with its boxes. The drawing's units stay pixels of the JPEG, whatever the thumbnail's size."""
    with Image.open(io.BytesIO(retrieved.jpeg)) as image:
        width, height = image.size
        thumbnail = retrieved.jpeg
        if max(image.size) > _THUMBNAIL_SIDE:
            small = image.convert("RGB")
            small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            stream = io.BytesIO()
            small.save(stream, "JPEG", quality=85)
            thumbnail = stream.getvalue()
    data = base64.b64encode(thumbnail).decode()
    boxes = "".join(
        f'<rect class="region" x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}">'
        f"<title>{escape(label)}</title></rect>"
        for (x0, y0, x1, y1), label in zip(retrieved.boxes, retrieved.labels, strict=True)
    )
    kind, mark = ("right", "✓ its image") if retrieved.correct else ("wrong", "another image")
    place = "" if retrieved.rank is None else f"{retrieved.rank:,}. "
    labels = escape(", ".join(dict.fromkeys(retrieved.labels))) or "no regions"
    return (
        f'<figure class="{kind}"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{labels}">'
        f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>{boxes}</svg>'
        f"<figcaption>{place}<b>{retrieved.score:.3f}</b> {mark}<br><small>{labels}</small></figcaption></figure>"
    )


def _outcomes(outcomes: Mapping[str, Mapping[str, int]]) -> str:
    if not outcomes:
        return ""
    names = sorted({name for counts in outcomes.values() for name, count in counts.items() if count} - {Outcome.OK})
    heads = "".join(f'<th scope="col">{escape(split)}</th>' for split in outcomes)
    lines = []
    for name in ["rows", Outcome.OK.value, *names]:
        numbers = (sum(counts.values()) if name == "rows" else counts.get(name, 0) for counts in outcomes.values())
        cells = "".join(f"<td>{number:,}</td>" for number in numbers)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    charts = []
    for split, counts in outcomes.items():
        total = sum(counts.values())
        lost = {name: count for name, count in counts.items() if name != Outcome.OK and count}
        if lost:
            many = sum(lost.values())
            charts.append(bar_chart(f"{split}: {many:,} of {total:,} rows lost ({many / total:.1%})", lost, total))
    return (
        (f'<div class="charts">{"".join(charts)}</div>' if charts else "<p>No row was lost.</p>")
        + f'<div class="wide"><table><thead><tr><th scope="col">outcome</th>{heads}</tr></thead>'
        + f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _training_curves(root: Root) -> str:
    blocks = []
    for run in root.names("runs"):
        path = f"{run_folder(run)}/metrics.jsonl"
        if not root.exists(path):
            continue
        curves = _curves(root.path(path), root.read_bytes(path))
        losses = {name: points for name, points in curves.items() if not _FRACTION.fullmatch(name)}
        fractions = {name: points for name, points in curves.items() if _FRACTION.fullmatch(name)}
        charts = [line_chart("losses", losses, "step", percent=False)] if losses else []
        charts += [line_chart("accuracy and recall@1", fractions, "step", percent=True)] if fractions else []
        if charts:
            blocks.append(f'<h3>{escape(run)}</h3><div class="charts">{"".join(charts)}</div>')
    return "".join(blocks)


def _curves(path: str, content: bytes) -> dict[str, list[tuple[float, float]]]:
    """Metric -> (step, value) points of a metrics.jsonl. A last line without newline is still being written."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        try:
            row = json.loads(line)
            step = float(row["step"])
            values = {name: float(value) for name, value in row.items() if not _NOT_DRAWN.fullmatch(name)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {number} is not a row of metrics ({error}); remove that line") from error
        for name, value in values.items():
            if math.isfinite(value):
                curves.setdefault(name, []).append((step, value))
    if any(curve == curves.get("loss") for name, curve in curves.items() if name != "loss"):
        del curves["loss"]  # Of a run with one loss, which is there under its name.
    return curves


def _history(rows: Sequence[HistoryRow]) -> str:
    if not rows:
        return ""
    charts = []
    for direction, label in _DIRECTIONS:
        series: dict[str, list[tuple[float, float]]] = {}
        for number, row in enumerate(rows, 1):
            recall = _recall_at_1(row, direction)
            if recall is not None:
                series.setdefault(f"{row.setting}, {row.dataset}/{row.split}", []).append((number, recall))
        if series:
            charts.append(line_chart(f"{label} R@1", series, "evaluation, oldest first", percent=True))
    lines = [
        f'<tr><th scope="row">{escape(_minute(row.created_at))}</th><td class="text">{escape(row.setting)}</td>'
        f'<td class="text">{escape(f"{row.dataset}/{row.split}")}</td><td>{row.seed}</td>'
        + "".join(f"<td>{_percent(_recall_at_1(row, direction))}</td>" for direction, _ in _DIRECTIONS)
        + f'<td class="text">{escape(row.run)}</td><td class="text">{escape(row.code_version)}</td></tr>'
        for row in reversed(rows[-_NEWEST_EVALUATIONS:])
    ]
    heads = "".join(
        f'<th scope="col"{kind}>{name}</th>'
        for name, kind in (
            ("made at (UTC)", ""),
            ("setting", ' class="text"'),
            ("data", ' class="text"'),
            ("seed", ""),
            ("image-to-text R@1", ""),
            ("text-to-image R@1", ""),
            ("run", ' class="text"'),
            ("code", ' class="text"'),
        )
    )
    note = f'<p class="note">The newest {len(lines):,} of {len(rows):,} evaluations.</p>'
    return (
        f'<div class="charts">{"".join(charts)}</div>{note if len(rows) > len(lines) else ""}'
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _minute(created_at: str) -> str:
    """2025-01-04T12:30:59+00:00 as 2025-01-04 12:30: records are in UTC."""
    return created_at[:16].replace("T", " ")


def _recall_at_1(row: HistoryRow, direction: Direction) -> float | None:
    """None where the row's metrics are of another kind."""
    recalls = row.metrics.get(f"{direction}_recall")
    value = recalls.get("1") if isinstance(recalls, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _parameters(params: Mapping[str, Any]) -> str:
    text = json.dumps(params, indent=2, ensure_ascii=False)
    return f"<details><summary>All parameters as JSON</summary><pre>{escape(text)}</pre></details>"
