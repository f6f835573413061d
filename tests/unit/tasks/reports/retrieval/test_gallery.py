from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from feature_extraction.samples.manifest import FeatureManifest
from tasks.errors import UserError
from tasks.reports.retrieval.gallery import Gallery, make_gallery
from tasks.storage.paths import feature_manifest_path, image_shard_path
from tasks.storage.root import Root
from tests.regions import DATASET, EXTRACTOR, SPLIT
from tests.scored import IMAGES, KEYS, picture, publish_data, publish_scores

ONE_EACH = [(number, f"caption {number}") for number in range(IMAGES)]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Image n has one caption, `caption n`."""
    root = Root(str(tmp_path))
    publish_data(root, ONE_EACH)
    return root


def gallery_of(root: Root, scores: np.ndarray, caption_image: list[int] | None = None) -> Gallery:
    publish_scores(root, "photos-0", scores, list(range(IMAGES)) if caption_image is None else caption_image)
    return make_gallery(root, "photos-0", DATASET, SPLIT, EXTRACTOR)


def mostly_right() -> np.ndarray:
    """Caption n finds image n by a margin of n + 1, but caption 6 finds it last."""
    scores = np.diag(np.arange(1.0, IMAGES + 1))
    scores[:, 6] = [6, 5, 4, 3, 2, 1, 0.5]
    return scores


def test_captions_are_walked_back_to_pictures_and_regions(root: Root) -> None:
    texts = gallery_of(root, mostly_right()).texts
    assert [query.caption for query in texts] == [f"caption {n}" for n in (6, 0, 1, 2, 3, 4, 5)]

    worst = texts[0]
    assert worst.about == "Its image ranks 7 of 7, margin -5.50."
    assert [found.rank for found in worst.images] == [1, 2, 3, 4, 5, 7]
    assert [found.score for found in worst.images] == [6, 5, 4, 3, 2, 0.5]
    assert [found.correct for found in worst.images] == [False] * 5 + [True]
    pictures = [found.picture for found in worst.images]
    assert [shown.key for shown in pictures] == [KEYS[n] for n in (0, 1, 2, 3, 4, 6)]
    assert [shown.jpeg for shown in pictures] == [picture(n) for n in (0, 1, 2, 3, 4, 6)]
    assert [shown.boxes for shown in pictures] == [((n, 5, 20, 25),) for n in (0, 1, 2, 3, 4, 6)]  # one above the floor
    assert [shown.labels for shown in pictures] == [(("cat", "dog")[n % 2],) for n in (0, 1, 2, 3, 4, 6)]

    best = texts[-1]
    assert best.about == "Its image ranks 1 of 7, margin +6.00."
    assert [found.correct for found in best.images] == [True, False, False, False, False]


def test_images_are_shown_with_their_best_captions(root: Root) -> None:
    images = gallery_of(root, mostly_right()).images
    # Row 0 holds 1 for its own caption and 6 for caption 6: of the images, this is found worst.
    worst = images[0]
    assert worst.picture.key == KEYS[0]
    assert worst.about == "Its caption ranks 2 of 7, margin -5.00."
    assert [(found.text, found.score) for found in worst.captions[:2]] == [("caption 6", 6), ("caption 0", 1)]
    assert [found.correct for found in worst.captions] == [False, True, False, False, False]
    assert len(worst.captions) == 5


def test_every_caption_of_an_image_is_right(root: Root) -> None:
    publish_data(root, [*ONE_EACH, (0, "another one")])
    scores = np.hstack([np.eye(IMAGES), np.full((IMAGES, 1), -1.0)])
    scores[0, -1] = 0.5
    query = next(
        query for query in gallery_of(root, scores, [*range(IMAGES), 0]).images if query.picture.key == KEYS[0]
    )
    assert query.about == "Its best caption ranks 1 of 8, margin +1.00."
    assert [(found.text, found.correct) for found in query.captions[:3]] == [
        ("caption 0", True),
        ("another one", True),
        ("caption 1", False),
    ]


def test_a_right_candidate_that_was_not_scored_is_said(root: Root) -> None:
    scores = np.ones((IMAGES, IMAGES))
    scores[2, 2] = -np.inf
    gallery = gallery_of(root, scores)
    (text,) = (query for query in gallery.texts if query.caption == "caption 2")
    assert text.about == "Its image was not scored: the shortlist left it out."
    assert text.images[-1].correct and text.images[-1].score == -np.inf


def test_of_equal_scores_the_right_image_is_shown_last(root: Root) -> None:
    first = gallery_of(root, np.zeros((IMAGES, IMAGES))).texts[0]
    assert first.caption == "caption 0"
    assert [found.correct for found in first.images] == [False] * 5 + [True]
    assert first.images[-1].rank == IMAGES


def test_pictures_that_left_the_disk_keep_their_regions(root: Root) -> None:
    root.remove(image_shard_path(DATASET, SPLIT, 1))
    pictures = {query.picture.key: query.picture for query in gallery_of(root, mostly_right()).images}
    assert pictures[KEYS[4]].jpeg is None and pictures[KEYS[4]].boxes == ((4, 5, 20, 25),)
    assert pictures[KEYS[3]].jpeg == picture(3)


def test_missing_scores_say_what_to_run(root: Root) -> None:
    with pytest.raises(UserError, match=r"photos-0 holds no scores: .* evaluate first"):
        make_gallery(root, "photos-0", DATASET, SPLIT, EXTRACTOR)


def test_a_damaged_block_of_scores_is_named(root: Root) -> None:
    gallery_of(root, mostly_right())
    root.publish_bytes("scores/photos-0/scores-00001.npy", b"torn")
    with pytest.raises(UserError, match=r"scores-00001\.npy cannot be read"):
        make_gallery(root, "photos-0", DATASET, SPLIT, EXTRACTOR)


def test_scored_caption_that_is_gone_is_named(root: Root) -> None:
    publish_data(root, ONE_EACH[:-1])
    with pytest.raises(UserError, match=r"captions\.parquet has no caption 000000006"):
        gallery_of(root, mostly_right())


def test_features_of_other_images_are_an_error(root: Root) -> None:
    path = feature_manifest_path(EXTRACTOR, DATASET, SPLIT)
    manifest = root.read_model(path, FeatureManifest)
    assert manifest is not None
    root.publish_model(path, manifest.model_copy(update={"shards": manifest.shards[:1]}))
    with pytest.raises(UserError, match="has no image 000000020, which was scored"):
        gallery_of(root, mostly_right())
