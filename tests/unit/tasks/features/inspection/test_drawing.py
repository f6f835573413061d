from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from tasks.features.inspection.drawing import SIDE, DrawnRegion, contact_sheet, draw_regions, label_colour
from tests.regions import SIZE, jpeg


def region(box: tuple[float, float, float, float], label: int = 0, name: str = "cat") -> DrawnRegion:
    return DrawnRegion(box, label, name, 0.5)


def mask(picture: Image.Image, label: int) -> np.ndarray:
    """Where a picture has exactly a label's colour."""
    return (np.asarray(picture) == label_colour(label)).all(axis=2)


def test_picture_is_drawn_in_its_proportions() -> None:
    drawn = draw_regions(jpeg("red"), SIZE, [])
    assert drawn.size == (SIDE, SIDE * 30 // 40)
    assert np.abs(np.asarray(drawn).astype(int) - (255, 0, 0)).max() < 8
    assert draw_regions(None, (10, 2000), []).size == (4, SIDE)


def test_box_is_where_its_pixels_are() -> None:
    seen = mask(draw_regions(jpeg(), SIZE, [region((10, 15, 30, 25))]), 0)
    scale = SIDE / 40
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert (columns[0], columns[-1]) == (10 * scale, 30 * scale)
    assert rows[-1] == 25 * scale
    assert rows[0] < 15 * scale  # the tag stands above
    assert not seen[int(18 * scale), int(15 * scale)]  # and inside it is hollow


def test_labels_have_colours_of_their_own() -> None:
    for one, other in itertools.combinations(range(40), 2):
        assert label_colour(one) != label_colour(other)
    gaps = [np.abs(np.subtract(label_colour(n), label_colour(n + 1))).max() for n in range(1600)]
    assert min(gaps) > 60  # neighbours in a vocabulary are often met together


def test_missing_picture_is_grey_with_its_boxes() -> None:
    drawn = draw_regions(None, SIZE, [region((10, 15, 30, 25))])
    assert drawn.getpixel((5, 5)) == (128, 128, 128)
    assert mask(drawn, 0).any()


def test_tags_of_boxes_at_one_place_all_stay_readable() -> None:
    boxes = [region((10, 10, 30, 25), label, f"label {label}") for label in range(5)]
    together = draw_regions(jpeg(), SIZE, boxes)
    for label in range(5):
        tag = mask(draw_regions(jpeg(), SIZE, [region((10, 10, 10, 10), label, f"label {label}")]), label).sum()
        assert mask(together, label).sum() > 0.8 * tag, f"the tag of label {label} is hidden"


@pytest.mark.parametrize("box", [(0.0, 0.0, 40.0, 30.0), (-20.0, -9.0, 2.0, 1.0), (39.0, 29.0, 90.0, 80.0), (7.0,) * 4])
def test_tags_of_odd_boxes_stay_inside(box: tuple[float, float, float, float]) -> None:
    assert mask(draw_regions(jpeg(), SIZE, [region(box, name="a very long label name, longer than is shown")]), 0).any()


def test_long_names_are_cut_and_keep_their_score() -> None:
    assert region((0, 0, 1, 1), name="a" * 60).text == "a" * 21 + "… 0.50"


def test_contact_sheet_has_a_cell_for_each_picture() -> None:
    wide, tall = Image.new("RGB", (720, 360), "red"), Image.new("RGB", (360, 720), "blue")
    sheet = np.asarray(contact_sheet([(wide, "one"), (tall, "two words " * 40), (wide, ""), (tall, "four")]))
    red, blue = (sheet == (255, 0, 0)).all(axis=2), (sheet == (0, 0, 255)).all(axis=2)
    assert red.sum() == 2 * 480 * 240 and blue.sum() == 2 * 240 * 480  # nothing lies on top of another
    assert sheet.shape[1] == 3 * 480 + 4 * 20
