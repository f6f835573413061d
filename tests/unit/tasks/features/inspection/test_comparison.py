from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.extract.shard import ExtractorRecord
from tasks.features.feature_sets import FeatureSet
from tasks.features.inspection.comparison import match_boxes
from tasks.features.inspection.config import InspectConfig
from tasks.features.inspection.doubts import doubts
from tasks.features.inspection.inspection import Inspection, inspect_features
from tasks.features.inspection.page import inspection_page
from tasks.storage import paths
from tasks.storage.root import Root
from tests.regions import DATASET, EXTRACTOR, FEATURES, SPLIT, publish_features, regions_of

OTHER = FeatureSet("d" * 12, DATASET, SPLIT)
BOXES = ((0, 0, 10, 10), (20, 0, 40, 20))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A set of three images with a cat and a dog each, and another, of the first two alone, that says tree for dog."""
    root = Root(str(tmp_path))
    other = [regions_of(f"00000000{n}", (0, 2), boxes=((0, 0, 10, 9), (20, 0, 40, 20))) for n in range(2)]
    publish_features(root, 0, other)
    folder = tmp_path / "features"
    (folder / FEATURES.extractor).rename(folder / OTHER.extractor)
    record = root.read_model(paths.extractor_path(OTHER.extractor), ExtractorRecord)
    assert record is not None
    named = record.model_copy(update={"fingerprint": "d" * 64})
    root.publish_model(paths.extractor_path(OTHER.extractor), named)
    publish_features(root, 0, [regions_of(f"00000000{n}", boxes=BOXES) for n in range(3)])
    return root


def look(root: Root, here: FeatureSet = FEATURES, there: FeatureSet = OTHER) -> Inspection:
    return inspect_features(root, here, InspectConfig(count=0), there)[0]


def test_same_regions_under_other_names_are_found(root: Root) -> None:
    inspection = look(root)
    found = inspection.comparison
    assert found is not None and found.other == "d" * 12
    assert (found.images, found.here.regions, found.there.regions) == (2, 4, 4)
    assert (found.matched, found.same_label) == (1, 0.5)
    # Features are (3, 4, 0, 0), equal in both, and zeros, which have no direction: 0.
    assert found.cosine == pytest.approx(0.5)
    assert [(swap.here, swap.there, swap.regions) for swap in found.swaps] == [("dog", "tree", 2)]
    page = inspection_page(inspection, [], "")
    assert "Against dddddddddddd, over 2 images: 100.0% of the regions are there, too, 50.0% of these with" in page
    assert '<tr><th scope="row">dog</th><td class="text">tree</td><td>2</td></tr>' in page
    assert doubts(inspection) == []


def test_few_equal_labels_are_doubted(root: Root) -> None:
    publish_features(root, 0, [regions_of("000000000", (1, 0), boxes=BOXES)])
    (doubt,) = doubts(look(root))
    assert doubt.startswith(
        "only 0.0% of the regions that are in dddddddddddd, too, have the same label there, such as"
    )


def test_a_set_equals_itself(root: Root) -> None:
    found = look(root, there=FEATURES).comparison
    assert found is not None and (found.images, found.matched, found.same_label, found.swaps) == (3, 1, 1, ())


def test_sets_of_different_pictures_are_refused(root: Root) -> None:
    publish_features(root, 0, [regions_of("000000077")])
    with pytest.raises(UserError, match=f"photos/train of {EXTRACTOR[:12]} and .* have no picture in common"):
        look(root)


def test_boxes_match_the_one_they_overlap_most() -> None:
    """Against the definition, pair by pair."""
    random = np.random.default_rng(0)
    first, second = (np.sort(random.uniform(0, 60, (30, 2, 2)), axis=1).reshape(30, 4).astype(np.float32) for _ in "ab")
    second[:10] = first[:10] + random.normal(0, 0.5, (10, 4))
    expected = []
    for place, (a, b, c, d) in enumerate(first.tolist()):
        overlaps = []
        for x0, y0, x1, y1 in second.tolist():
            shared = max(0, min(c, x1) - max(a, x0)) * max(0, min(d, y1) - max(b, y0))
            overlaps.append(shared / ((c - a) * (d - b) + (x1 - x0) * (y1 - y0) - shared))
        if max(overlaps) >= 0.5:
            expected.append((place, overlaps.index(max(overlaps))))
    found = [(int(a), int(b)) for a, b in zip(*match_boxes(first, second, np.zeros((30, 30), np.bool_)), strict=True)]
    assert found == expected and len(found) >= 8


def test_of_equal_boxes_one_with_the_same_label_is_taken() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    assert match_boxes(boxes, boxes, np.eye(2, dtype=np.bool_))[1].tolist() == [0, 1]
    assert match_boxes(boxes, boxes, ~np.eye(2, dtype=np.bool_))[1].tolist() == [1, 0]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 3), (3, 0)])
def test_no_boxes_match_none(first: int, second: int) -> None:
    alike = np.zeros((first, second), np.bool_)
    mine, theirs = match_boxes(np.zeros((first, 4), np.float32), np.zeros((second, 4), np.float32), alike)
    assert len(mine) == len(theirs) == 0
