from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from feature_extraction.samples import (
    FeatureManifest,
    ImageSample,
    RegionLayout,
    RegionSample,
    ShardEntry,
    encode_image,
    encode_regions,
    write_tar,
)
from tasks.errors import UserError
from tasks.gallery import choose_captions, make_gallery, ranks_and_margins
from tasks.records import FileDigest
from tasks.storage import (
    Root,
    captions_path,
    feature_manifest_path,
    features_folder,
    image_shard_path,
    region_shard_name,
)

EXTRACTOR = "e" * 64
LAYOUT = RegionLayout(max_regions=3, feature_dim=4, encoding="sqrt8")
IMAGES = 7
PER_SHARD = 4
KEYS = [f"{5 * number:09d}" for number in range(IMAGES)]
"""Five captions an image, so an image's key is every fifth row's."""


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40 + number, 30), "teal").save(stream, "JPEG")
    return stream.getvalue()


def regions(number: int) -> RegionSample:
    """Two regions; the second one's score is below the floor of the gallery, but for image 6."""
    return RegionSample(
        key=KEYS[number],
        size=(40 + number, 30),
        boxes=np.array([[1, 2, 11, 12 + number], [3, 4, 5, 6]], np.float32),
        labels=np.array([number % 2, 2], np.int16),
        scores=np.array([0.9, 0.25 if number == 6 else 0.125], np.float32),
        background=np.full(2, 0.05, np.float32),
        features=np.ones((2, 4), np.float32),
    )


def publish_tar(root: Root, path: str, members: list[tuple[str, bytes]]) -> FileDigest:
    return root.publish(path, lambda stream: write_tar(stream, members))


def publish_scores(root: Root, scores: np.ndarray, caption_image: list[int], caption_ids: list[str]) -> None:
    arrays = {
        "scores": scores.astype(np.float32),
        "image_keys": np.array(KEYS),
        "caption_ids": np.array(caption_ids),
        "caption_image": np.array(caption_image),
    }
    root.publish("scores/photos-test-0/scores.npz", lambda stream: np.savez(stream, **arrays))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Seven images in two shards, with a caption each: image n's caption is `caption n`."""
    root = Root(str(tmp_path))
    entries = []
    for shard, start in enumerate(range(0, IMAGES, PER_SHARD)):
        numbers = range(start, min(start + PER_SHARD, IMAGES))
        samples = [ImageSample(KEYS[n], f"caption {n}", "http://a/b", (40 + n, 30), "0" * 64, jpeg(n)) for n in numbers]
        publish_tar(
            root, image_shard_path("photos", "test", shard), [m for sample in samples for m in encode_image(sample)]
        )
        name = region_shard_name(shard)
        digest = publish_tar(
            root,
            f"{features_folder(EXTRACTOR, 'photos', 'test')}/{name}",
            [(f"{KEYS[n]}.rgn", encode_regions(regions(n), LAYOUT)) for n in numbers],
        )
        entries.append(ShardEntry(name=name, samples=len(numbers), bytes=digest.bytes, sha256=digest.sha256))
    manifest = FeatureManifest(
        max_regions=3,
        feature_dim=4,
        encoding="sqrt8",
        labels=("cat", "dog", "tree"),
        extractor=EXTRACTOR,
        extractor_details={},
        shards=tuple(entries),
    )
    root.publish_model(feature_manifest_path(EXTRACTOR, "photos", "test"), manifest)
    captions = pa.table(
        {
            "caption_id": KEYS,
            "image_key": KEYS,
            "text": [f"caption {n}" for n in range(IMAGES)],
            "split": ["test"] * IMAGES,
        }
    )
    root.publish(captions_path("photos", "test"), lambda stream: pq.write_table(captions, stream))
    return root


def test_rank_counts_ties_against_and_margin_is_over_the_best_other_image() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 5.0], [0.5, 4.0, 2.5]], np.float32)
    ranks, margins = ranks_and_margins(scores, np.array([0, 1, 2]))
    assert ranks.tolist() == [1, 3, 2]  # caption 1 ties with image 0, and image 2 is better
    assert margins.tolist() == [2.0, -3.0, -2.5]


def test_captions_are_the_worst_the_best_and_four_in_between() -> None:
    # Twenty-one captions of as many images. Caption 20 - n ranks n + 1, so the order is 0, 1, 2, ...: worst first.
    ranks = np.arange(21, 0, -1)
    chosen = choose_captions(ranks, np.zeros(21, np.float32), np.arange(21))
    assert chosen == [0, 1, 2, 4, 8, 12, 16, 18, 19, 20]


def test_at_equal_rank_the_margin_decides() -> None:
    margins = np.array([0.3, 0.1, 0.9, 0.2, 0.7, 0.8], np.float32)
    assert choose_captions(np.ones(6, np.int64), margins, np.arange(6)) == [1, 3, 0, 4, 5, 2]


def test_an_image_is_shown_for_one_caption_only() -> None:
    ranks = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 1])
    images = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 4])
    margins = np.array([-1] * 8 + [1, 2], np.float32)
    # Worst: one each of images 0, 1, 2. Best: one each of images 4 and 3, then nothing is left.
    assert choose_captions(ranks, margins, images) == [0, 3, 5, 7, 9]


def test_gallery_walks_from_scores_back_to_pictures_and_regions(root: Root) -> None:
    scores = np.zeros((IMAGES, IMAGES))
    np.fill_diagonal(scores, np.arange(1, IMAGES + 1))  # right, by a margin of n + 1
    scores[:, 6] = [6, 5, 4, 3, 2, 1, 0.5]  # but caption 6 finds its image last
    publish_scores(root, scores, list(range(IMAGES)), KEYS)
    gallery = make_gallery(root, "photos-test-0", "photos", "test", EXTRACTOR)
    assert [entry.caption for entry in gallery] == [f"caption {n}" for n in (6, 0, 1, 2, 3, 4, 5)]

    worst = gallery[0]
    assert worst.about == "Its image ranks 7 of 7, margin -5.50."
    assert [image.rank for image in worst.images] == [1, 2, 3, 4, 5, 7]
    assert [image.score for image in worst.images] == [6, 5, 4, 3, 2, 0.5]
    assert [image.correct for image in worst.images] == [False] * 5 + [True]
    assert [image.jpeg for image in worst.images] == [jpeg(n) for n in (0, 1, 2, 3, 4, 6)]
    assert [image.boxes[0] for image in worst.images] == [(1, 2, 11, 12 + n) for n in (0, 1, 2, 3, 4, 6)]
    assert [image.labels for image in worst.images] == [["cat"], ["dog"], ["cat"], ["dog"], ["cat"], ["cat", "tree"]]

    best = gallery[-1]
    assert best.about == "Its image ranks 1 of 7, margin +6.00."
    assert [image.correct for image in best.images] == [True, False, False, False, False]
    assert best.images[0].jpeg == jpeg(5)


def test_of_equal_scores_the_right_image_is_shown_last(root: Root) -> None:
    publish_scores(root, np.zeros((IMAGES, IMAGES)), list(range(IMAGES)), KEYS)
    first = make_gallery(root, "photos-test-0", "photos", "test", EXTRACTOR)[0]
    assert first.caption == "caption 0"
    assert [image.correct for image in first.images] == [False] * 5 + [True]
    assert first.images[-1].rank == 7


def test_missing_scores_say_what_to_run(root: Root) -> None:
    with pytest.raises(UserError, match=r"scores\.npz is missing; run: unicoder-vl evaluate"):
        make_gallery(root, "photos-test-0", "photos", "test", EXTRACTOR)


def test_scored_caption_that_is_gone_is_named(root: Root) -> None:
    publish_scores(root, np.eye(IMAGES), list(range(IMAGES)), ["gone", *KEYS[1:]])
    with pytest.raises(UserError, match=r"captions\.parquet has no caption gone"):
        make_gallery(root, "photos-test-0", "photos", "test", EXTRACTOR)


def test_features_of_other_images_are_an_error(root: Root) -> None:
    publish_scores(root, np.eye(IMAGES), list(range(IMAGES)), KEYS)
    path = feature_manifest_path(EXTRACTOR, "photos", "test")
    manifest = root.read_model(path, FeatureManifest)
    assert manifest is not None
    root.publish_model(path, manifest.model_copy(update={"shards": manifest.shards[:1]}))
    with pytest.raises(UserError, match="has no image 000000020, which was scored"):
        make_gallery(root, "photos-test-0", "photos", "test", EXTRACTOR)
