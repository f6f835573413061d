from __future__ import annotations

import pytest

from model.downstream.retrieval.protocols import protocol_name, protocol_rows
from model.errors import InputError


def test_all_and_first_are_one_fold() -> None:
    assert protocol_rows("all", 7) == [range(7)]
    assert protocol_rows("first:3", 7) == [range(3)]
    assert protocol_rows("first:7", 7) == [range(7)]


@pytest.mark.parametrize(
    ("size", "images", "folds"),
    [
        (1000, 5000, [range(start, start + 1000) for start in range(0, 5000, 1000)]),
        (3, 10, [range(4), range(4, 7), range(7, 10)]),
        (3, 8, [range(3), range(3, 6), range(6, 8)]),
        (4, 10, [range(5), range(5, 10)]),
        (1000, 100, [range(100)]),
        (1000, 1499, [range(1499)]),
        (1, 2, [range(1), range(1, 2)]),
    ],
)
def test_folds_hold_every_image_once_and_differ_by_one_at_most(size: int, images: int, folds: list[range]) -> None:
    assert protocol_rows(f"folds:{size}", images) == folds


def test_more_images_than_there_are_is_an_error() -> None:
    with pytest.raises(InputError, match=r"first:1000 wants 1,000 images, but 999 were scored"):
        protocol_rows("first:1000", 999)


@pytest.mark.parametrize("protocol", ["", "first", "first:0", "folds:-1", "folds:1e3", "all:5", "first:5\n"])
def test_an_unknown_protocol_is_an_error(protocol: str) -> None:
    with pytest.raises(InputError, match="is none of all, first:N and folds:N"):
        protocol_rows(protocol, 10)


@pytest.mark.parametrize(
    ("protocol", "images", "captions", "folds", "split", "text"),
    [
        ("all", 1000, 5000, 1, 1000, "1,000 images x 5,000 captions"),
        ("all", 1, 1, 1, None, "1 image x 1 caption"),
        ("first:1000", 1000, 5010, 1, 5000, "the first 1,000 of 5,000 images x 5,010 captions"),
        ("first:1000", 1000, 5010, 1, None, "the first 1,000 images x 5,010 captions"),
        ("folds:1000", 5000, 25010, 5, 5000, "mean of 5 folds of 1,000 images (25,010 captions in all)"),
        ("folds:3", 10, 50, 3, 10, "mean of 3 folds of 3 or 4 images (50 captions in all)"),
        ("folds:1000", 100, 500, 1, 100, "100 images x 500 captions"),
    ],
)
def test_a_protocol_in_words(
    protocol: str, images: int, captions: int, folds: int, split: int | None, text: str
) -> None:
    assert protocol_name(protocol, images, captions, folds, split) == text
