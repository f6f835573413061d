from dataclasses import replace

import numpy as np
import pytest

from feature_extraction.foreign.arrays import ForeignError
from feature_extraction.foreign.boxes import in_form, tell_box_form
from feature_extraction.foreign.tsv import ForeignRegions, region_sample

SIZES = [(640, 480), (480, 640), (500, 375)]


def picture(number: int, boxes, size=(640, 480), relative: bool = False) -> ForeignRegions:
    count = len(boxes)
    zeros = np.zeros(count, np.float32)
    return ForeignRegions(
        f"p{number}", size, np.array(boxes, np.float32).reshape(count, 4), zeros.astype(np.int64), zeros, zeros,
        np.zeros((count, 2), np.float32), relative,
    )  # fmt: skip


def pictures(change=lambda boxes, size: boxes, count: int = 10) -> list[ForeignRegions]:
    """Three pictures with boxes in pixels, changed."""
    made = []
    for number, size in enumerate(SIZES):
        corners = np.sort(np.random.default_rng(number).uniform(0, 1, (count, 2, 2)), axis=1).reshape(count, 4)
        made.append(picture(number, change(corners * [*size, *size], np.array([*size, *size])), size))
    return made


def as_shares(boxes, size):
    return boxes / size


def test_pixels_and_shares_are_told_apart():
    assert tell_box_form(pictures()) == "pixels"
    assert tell_box_form(pictures(as_shares)) == "normalised"
    rounded = pictures(lambda boxes, size: (boxes / size + 2e-3).astype(np.float16))
    assert tell_box_form(rounded) == "normalised"
    of_unknown_size = [replace(item, size=None) for item in pictures(as_shares)]
    assert tell_box_form(of_unknown_size) == "normalised"


def test_where_nothing_tells_boxes_are_pixels():
    assert tell_box_form([]) == "pixels"
    assert tell_box_form([picture(1, []), picture(2, [[0, 0, 0, 0]])]) == "pixels"
    assert tell_box_form([picture(1, [[0, 0, 1, 1]], size=(1, 1))]) == "pixels"
    assert tell_box_form([picture(1, [[0, 0, np.inf, np.nan]])]) == "pixels"


def test_shares_become_pixels():
    found = in_form(pictures(as_shares)[1], "normalised")
    np.testing.assert_allclose(
        region_sample(found, "000000001", None, 99, 1).boxes, pictures()[1].boxes, rtol=1e-4, atol=1e-3
    )


def test_boxes_that_may_be_either_are_refused():
    some = [*pictures(), pictures(as_shares)[0]]
    with pytest.raises(
        ForeignError, match=r"boxes of 1 of 4 pictures lie between 0 and 1, such as those of 'p0'.*--box"
    ):
        tell_box_form(some)


@pytest.mark.parametrize("unit", ["pixels", "shares"])
def test_width_and_height_in_place_of_the_second_corner_are_found_out(unit):
    def sides(boxes, size):
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        return boxes / size if unit == "shares" else boxes

    with pytest.raises(ForeignError, match=r"\(x, y, width, height\), it seems: some of 'p0' end before they begin"):
        tell_box_form(pictures(sides))


def test_one_damaged_box_is_no_sign_of_widths_and_heights():
    some = pictures()
    some[0].boxes[3] = [600, 10, 500, 20]
    assert tell_box_form(some) == "pixels"


def test_exchanged_axes_are_found_out():
    with pytest.raises(
        ForeignError, match="x and y are exchanged, or width and height; to take them as they are, give"
    ):
        tell_box_form(pictures(lambda boxes, size: boxes[:, [1, 0, 3, 2]]))


def test_boxes_of_a_larger_picture_are_found_out():
    with pytest.raises(ForeignError, match=r"'p0', which is 640 x 480 and whose boxes reach 8.*of another size"):
        tell_box_form(pictures(lambda boxes, size: boxes * 1.4))
    assert tell_box_form(pictures(lambda boxes, size: boxes * 1.01)) == "pixels"


@pytest.mark.parametrize(("share", "warns"), [(0.5, True), (1, False)])
def test_boxes_of_a_smaller_picture_are_warned_of(share, warns, caplog):
    many = pictures(lambda boxes, size: boxes * share, count=36) * 3
    assert tell_box_form(many) == "pixels"
    assert ("and not of smaller ones?" in caplog.text) is warns


def test_a_picture_that_is_not_as_the_others_is_refused():
    shares = pictures(as_shares)[0]
    with pytest.raises(ForeignError, match="all boxes lie between 0 and 1, in the first pixel"):
        in_form(shares, "pixels")
    assert in_form(shares, "pixels", is_certain=True) is shares
    for relative in (False, True):
        with pytest.raises(ForeignError, match=r"boxes reach 6\d\d\.?\d*, but shares of width and height end at 1"):
            in_form(replace(pictures()[0], relative=relative), "normalised")
    known = replace(shares, relative=True)
    assert in_form(known, "pixels") is known
