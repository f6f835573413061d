from __future__ import annotations

import numpy as np
import pytest

from tasks.world.scenes import COLOURS, LABELS, SHAPES, SIDE, SceneObject, render_scene


def test_labels_are_numbered_shape_by_shape() -> None:
    assert len(LABELS) == len(set(LABELS)) == 64
    assert LABELS[0] == "red circle"
    assert LABELS[9] == "orange square"
    for label, name in enumerate(LABELS):
        colour, shape = name.split()
        assert SceneObject(shape, colour, "small", (0, 0, 1, 1)).label == label


def test_equal_generators_draw_equal_pictures() -> None:
    first, again, other = (render_scene(np.random.default_rng(seed), 2, 4) for seed in (7, 7, 8))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.objects == again.objects
    assert first.image.tobytes() != other.image.tobytes()


def test_number_of_objects_spans_its_range_and_no_kind_comes_twice() -> None:
    rng = np.random.default_rng(0)
    scenes = [render_scene(rng, 3, 5) for _ in range(60)]
    assert {len(scene.objects) for scene in scenes} == {3, 4, 5}
    assert all(len({item.label for item in scene.objects}) == len(scene.objects) for scene in scenes)


def test_boxes_lie_inside_the_picture_and_say_the_size() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        scene = render_scene(rng, 1, 5)
        assert scene.image.size == (SIDE, SIDE)
        assert scene.image.mode == "RGB"
        for item in scene.objects:
            x0, y0, x1, y1 = item.box
            assert 0 <= x0 < x1 <= SIDE and 0 <= y0 < y1 <= SIDE
            longest = max(x1 - x0, y1 - y0)
            # Radii are 7 to 11 or 14 to 20 pixels; shapes are 1.7 (square) to 2.12 (cross, heart) of them long.
            assert (11.9 < longest < 23.4) if item.size == "small" else (23.7 < longest < 42.4)


def test_boxes_hardly_overlap() -> None:
    rng = np.random.default_rng(2)
    overlaps = []
    for _ in range(60):
        boxes = [item.box for item in render_scene(rng, 5, 5).objects]
        for i, (ax0, ay0, ax1, ay1) in enumerate(boxes):
            for bx0, by0, bx1, by1 in boxes[:i]:
                shared = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
                overlaps.append(shared / min((ax1 - ax0) * (ay1 - ay0), (bx1 - bx0) * (by1 - by0)))
    assert np.mean(np.array(overlaps) > 0.1 + 1e-9) < 0.02


@pytest.mark.parametrize(("colour", "channels"), [("red", (0,)), ("green", (1,)), ("blue", (2,)), ("cyan", (1, 2))])
def test_an_object_has_its_colour_where_its_box_says(colour: str, channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    seen = 0
    while seen < 3:
        scene = render_scene(rng, 1, 3)
        pixels = np.asarray(scene.image).astype(float)
        for item in scene.objects:
            if item.colour != colour or item.shape != "square":
                continue
            x, y = (int(v) for v in item.centre)
            patch = pixels[y - 2 : y + 3, x - 2 : x + 3].mean(axis=(0, 1))
            others = [c for c in range(3) if c not in channels]
            assert patch[list(channels)].min() > patch[others].max() + 40
            seen += 1


def test_shapes_differ_in_outline() -> None:
    """A ring has a hole, a circle has none: the middle of the box shows it."""
    rng = np.random.default_rng(4)
    middles: dict[str, list[float]] = {"ring": [], "circle": []}
    while min(map(len, middles.values())) < 5:
        scene = render_scene(rng, 1, 1)
        (item,) = scene.objects
        if item.colour == "white" and item.shape in middles and item.size == "large":
            x, y = (int(v) for v in item.centre)
            middles[item.shape].append(float(np.asarray(scene.image)[y - 1 : y + 2, x - 1 : x + 2].mean()))
    assert min(middles["circle"]) > 200 > max(middles["ring"])


@pytest.mark.parametrize("bounds", [(0, 2), (3, 2), (1, 65)])
def test_refuses_an_empty_or_impossible_range(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="objects"):
        render_scene(np.random.default_rng(0), *bounds)


def test_there_are_eight_of_each() -> None:
    assert len(SHAPES) == len(COLOURS) == 8
