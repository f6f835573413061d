"""Queries and their results as HTML: thumbnails with regions drawn, right and wrong marked."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

from markupsafe import Markup
from PIL import Image

from feature_extraction.samples.tars import ShardError
from tasks.pages.page import render
from tasks.reports.pictures import Picture
from tasks.reports.retrieval.gallery import ImageQuery, TextQuery

_THUMBNAIL_SIDE = 240  # pixels; a card is narrower, but screens are finer
_QUERY_SIDE = 360
_QUALITY = 75


def text_queries(queries: Sequence[TextQuery]) -> Markup:
    """Each caption with a row of images below."""
    return _render("text_queries", queries, _THUMBNAIL_SIDE)


def image_queries(queries: Sequence[ImageQuery]) -> Markup:
    """Each image with a list of captions beside it; below it on a narrow screen."""
    return _render("image_queries", queries, _QUERY_SIDE)


def _render(template: str, queries: Sequence[TextQuery] | Sequence[ImageQuery], side: int) -> Markup:
    return render(
        f"reports/retrieval/{template}.html", queries=queries, side=side, lowest=-math.inf, thumbnail=_thumbnail_base64
    )


def _thumbnail_base64(picture: Picture, side: int) -> str:
    return base64.b64encode(_thumbnail(picture.key, picture.jpeg or b"", side)).decode()


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
