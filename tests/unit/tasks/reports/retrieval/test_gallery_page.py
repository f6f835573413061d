from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from feature_extraction.samples.tars import ShardError
from tasks.reports.pictures import Picture
from tasks.reports.retrieval.gallery import FoundCaption, FoundImage, ImageQuery, TextQuery
from tasks.reports.retrieval.gallery_page import image_queries, text_queries
from tests.page import Page

EVIL = '"><script>alert("x")</script>'


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(stream, "JPEG", quality=95)
    return stream.getvalue()


def picture(content: bytes | None, size: tuple[int, int] = (64, 48), label: str = "red circle") -> Picture:
    return Picture("000000005", size, content, ((1.0, 2.0, 11.0, 22.0),), (label,))


def found(correct: bool | None, content: bytes | None = None, score: float = 0.75) -> FoundImage:
    return FoundImage(picture(content), score, 3, correct)


def test_right_and_wrong_are_words() -> None:
    html = text_queries([TextQuery("a ring", [found(True), found(False)], "Its image ranks 3 of 9.")])
    page = Page(html)
    assert " ".join(page.text).count("✓ right") == 1 and " ".join(page.text).count("✗ wrong") == 1
    assert 'class="right"' in html and 'class="wrong"' in html
    assert "3. <b>0.750</b>" in html and "Its image ranks 3 of 9." in html


def test_of_a_search_neither_is_said() -> None:
    html = text_queries([TextQuery("a ring", [found(None)])]) + image_queries(
        [ImageQuery(picture(None), [FoundCaption("a ring", 1.5, 1)])]
    )
    assert "✓" not in html and "✗" not in html


def test_a_pair_that_was_left_out_has_no_rank() -> None:
    html = text_queries([TextQuery("a ring", [found(True, score=float("-inf"))])])
    assert "not scored" in html and "inf" not in html


def test_captions_of_an_image_are_listed_best_first() -> None:
    captions = [FoundCaption("a cat", 1.5, 1, False), FoundCaption("a dog", 1.25, 2, True)]
    html = image_queries([ImageQuery(picture(jpeg(64, 48)), captions, "Its caption ranks 2 of 9.")])
    assert [text for text in Page(html).text if text in ("a cat", "a dog", "1.500", "1.250")] == [
        *("1.500", "a cat", "1.250", "a dog"),
    ]
    assert html.count("<li") == 2 and '<li class="right">' in html


def test_boxes_keep_the_pixels_of_the_stored_image() -> None:
    large = jpeg(1024, 512)
    shown = Picture("k", (1024, 512), large, ((100.0, 50.0, 300.0, 250.0),), ("red circle",))
    html = text_queries([TextQuery("a red circle", [FoundImage(shown, 1, 1, True)])])
    assert 'viewBox="0 0 1024 512"' in html
    assert '<rect class="region" x="100.0" y="50.0" width="200.0" height="200.0"><title>red circle</title>' in html
    (link,) = Page(html).links
    assert len(link) < len(large) / 4  # a thumbnail, not the whole picture


def test_a_small_picture_is_kept_where_it_would_only_grow() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(stream, "JPEG", quality=5, optimize=True)
    (link,) = Page(text_queries([TextQuery("a ring", [found(True, stream.getvalue())])])).links
    assert base64.b64decode(link.removeprefix("data:image/jpeg;base64,")) == stream.getvalue()


def test_a_picture_that_left_the_disk_is_a_grey_field_with_its_boxes() -> None:
    html = text_queries([TextQuery("a ring", [found(True, None)])])
    assert Page(html).links == []
    assert '<rect class="absent" width="64" height="48"/>' in html and 'class="region"' in html
    assert "The picture is not on this disk." in html


def test_a_damaged_picture_is_named() -> None:
    with pytest.raises(ShardError, match="key 000000005: the stored picture is damaged"):
        text_queries([TextQuery("a ring", [found(True, b"no jpeg")])])


def test_text_of_the_web_is_escaped_and_cut() -> None:
    shown = picture(None, label=EVIL)
    html = text_queries([TextQuery(EVIL, [FoundImage(shown, 1, 1, True)], EVIL)])
    html += image_queries([ImageQuery(shown, [FoundCaption(EVIL + "x" * 500, 1, 1, True)], EVIL)])
    assert "script" not in Page(html).tags
    assert html.count("&lt;script&gt;") == 8
    assert max(map(len, re.findall("x+", html))) < 300


def test_a_label_is_wanted_for_every_box() -> None:
    shown = Picture("k", (64, 48), None, ((1.0, 2.0, 3.0, 4.0),), ())
    with pytest.raises(ValueError, match="shorter"):
        text_queries([TextQuery("a ring", [FoundImage(shown, 1, 1, True)])])
