"""Queries and what they found, as HTML: thumbnails with the regions drawn, right and wrong marked."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from feature_extraction.samples.tars import ShardError
from tasks.pages.page import web_text
from tasks.reports.pictures import Picture
from tasks.reports.retrieval.gallery import FoundCaption, FoundImage, ImageQuery, TextQuery

_THUMBNAIL_SIDE = 240  # pixels; a card is narrower, but screens are finer
_QUERY_SIDE = 360
_QUALITY = 75


def text_queries(queries: Sequence[TextQuery]) -> str:
    """Each caption with a row of images below."""
    blocks = []
    for query in queries:
        cards = "".join(f"<li>{_image_card(found)}</li>" for found in query.images)
        blocks.append(
            f'<h3 class="caption">“{web_text(query.caption)}”</h3>{_about(query.about)}<ol class="gallery">{cards}</ol>'
        )
    return "".join(blocks)


def image_queries(queries: Sequence[ImageQuery]) -> str:
    """Each image with a list of captions beside it; below it on a narrow screen."""
    return "".join(
        f'<figure class="query"><div>{_drawing(query.picture, _QUERY_SIDE)}'
        f"<figcaption>{_about(query.about)}{_named(query.picture)}</figcaption></div>"
        f'<ol class="found">{"".join(_caption_line(found) for found in query.captions)}</ol></figure>'
        for query in queries
    )


def _image_card(found: FoundImage) -> str:
    kind, mark = _mark(found.correct)
    return (
        f'<figure class="{kind}">{_drawing(found.picture, _THUMBNAIL_SIDE)}'
        f"<figcaption>{_place(found)}{mark}<br>{_named(found.picture)}</figcaption></figure>"
    )


def _caption_line(found: FoundCaption) -> str:
    kind, mark = _mark(found.correct)
    return f'<li class="{kind}"><span>{_place(found)}{mark}</span><span class="web">{web_text(found.text)}</span></li>'


def _mark(correct: bool | None) -> tuple[str, str]:
    """Class and words: told by more than a colour. Of a search nobody knows, and neither is said."""
    if correct is None:
        return "unknown", ""
    return ("right", " <em>✓ right</em>") if correct else ("wrong", " <em>✗ wrong</em>")


def _place(found: FoundImage | FoundCaption) -> str:
    """Rank and score; a pair that a shortlist left out has neither."""
    return "not scored" if np.isneginf(found.score) else f"{found.rank:,}. <b>{found.score:.3f}</b>"


def _about(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def _named(picture: Picture) -> str:
    """The key, by which a picture is found again, and the labels of its regions."""
    labels = ", ".join(dict.fromkeys(picture.labels)) or "no region to show"
    here = "" if picture.jpeg else " The picture is not on this disk."
    return f"<small>{escape(picture.key)}: {web_text(labels)}.{here}</small>"


def _drawing(picture: Picture, side: int) -> str:
    """A thumbnail with its regions. The drawing's units stay pixels of the stored image, whatever its own size."""
    width, height = picture.size
    image = f'<rect class="absent" width="{width}" height="{height}"/>'
    if picture.jpeg is not None:
        data = base64.b64encode(_thumbnail(picture.key, picture.jpeg, side)).decode()
        image = f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>'
    boxes = "".join(
        f'<rect class="region" x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}">'
        f"<title>{escape(label)}</title></rect>"
        for (x0, y0, x1, y1), label in zip(picture.boxes, picture.labels, strict=True)
    )
    label = f"picture {escape(picture.key)}"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{image}{boxes}</svg>'


def _thumbnail(key: str, jpeg: bytes, side: int) -> bytes:
    """A JPEG of at most so many pixels a side; the stored one where that is small and not larger in bytes."""
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            fits = max(image.size) <= side
            small = image.convert("RGB")
    except OSError as error:
        raise ShardError(f"key {key}: the stored picture is damaged ({error}); download its shard again") from error
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    made = stream.getvalue()
    return jpeg if fits and len(jpeg) <= len(made) else made
