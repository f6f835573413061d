from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.features.feature_sets import FeatureSet
from tasks.reports import regions as module
from tasks.reports.regions import regions_section
from tasks.storage.root import Root
from tests.regions import DATASET, EXTRACTOR, SPLIT, publish_features, regions_of
from tests.scored import publish_data

FEATURES = FeatureSet(EXTRACTOR, DATASET, SPLIT)


def test_regions_and_labels_are_counted(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    publish_data(root, [(0, "a caption")])
    html = regions_section(root, FEATURES)
    assert "From all 7 images of the split that was scored: 2 to 2 regions an image, median 2" in html
    assert "3 of 4 labels occur" in html
    # Seven trees, four cats (images 0, 2, 4, 6) and three dogs among fourteen regions.
    assert "7 (50.00%)" in html and "4 (28.57%)" in html and "3 (21.43%)" in html


def test_of_many_images_some_are_read_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_IMAGES", 64)
    root = Root(str(tmp_path))
    for shard in range(3):
        publish_features(root, shard, [regions_of(f"{100 * shard + number:09d}") for number in range(40)])
    assert "From 64 of 120, evenly spaced, images" in regions_section(root, FEATURES)


def test_features_without_any_region_are_said(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    publish_features(root, 0, [regions_of("000000000", labels=())])
    assert regions_section(root, FEATURES) == "<p>None of 1 images that were read has a region.</p>"


def test_features_that_are_gone_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run: unicoder-vl extract"):
        regions_section(Root(str(tmp_path)), FEATURES)
