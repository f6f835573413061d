"""Ground truth in the files of ECCV Caption: small ones made here, and the published ones where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.downstream.retrieval.metrics import retrieval_metrics
from model.downstream.retrieval.positives import Positives, read_positives
from model.downstream.retrieval.positives_metrics import measure_positives
from model.downstream.retrieval.ranks import Numbers
from model.downstream.retrieval.scores import Index, WholeMatrix
from model.errors import InputError

REAL = Path(__file__).parents[6] / "shared/data/eccv_caption"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the published ground truth is not beside the checkout")


def write(folder: Path, images: object, captions: object) -> tuple[Path, Path]:
    paths = folder / "image_to_caption.json", folder / "caption_to_image.json"
    for path, content in zip(paths, (images, captions), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_ids_become_rows_and_columns_and_directions_may_differ(tmp_path: Path) -> None:
    paths = write(tmp_path, {"70": [9, 8, 9], "50": [7]}, {"8": [70, 60]})
    positives = read_positives("mine", *paths, image_ids=[50, 60, 70], caption_ids=[7, 8, 9])
    to_text, to_image = positives.image_to_text, positives.text_to_image
    assert sorted(zip(to_text.rows.tolist(), to_text.columns.tolist(), strict=True)) == [(0, 0), (2, 1), (2, 2)]
    assert sorted(zip(to_image.rows.tolist(), to_image.columns.tolist(), strict=True)) == [(1, 1), (2, 1)]


def test_true_candidates_that_were_not_scored_are_counted(tmp_path: Path) -> None:
    paths = write(tmp_path, {"70": [1, 7, 2]}, {"7": [70, 71]})
    positives = read_positives("mine", *paths, image_ids=[70], caption_ids=[7])
    assert positives.unscored == 3
    metrics = retrieval_metrics(WholeMatrix(np.ones((1, 1), np.float32)), np.array([0]), positives=positives)
    assert metrics.image_to_text_recall[1] == metrics.text_to_image_recall[1] == 1
    assert metrics.positives == "mine (1 image and 1 caption queries, 3 true pairs not scored)"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"71": [7]}, "asks for image 71, but it or all that is true of it was not scored"),
        ({"70": [1, 2]}, "asks for image 70, but it or all that is true of it was not scored"),
        ({"70": []}, "asks for image 70, but it or all that is true of it was not scored"),
        ({"70": "7"}, "is no JSON of the form"),
        ([70], "is no JSON of the form"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error(tmp_path: Path, images: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_positives("mine", *write(tmp_path, images, {}), image_ids=[70], caption_ids=[7])


def test_all_queries_that_were_not_scored_are_named_or_counted(tmp_path: Path) -> None:
    paths = write(tmp_path, {}, {str(caption): [70] for caption in range(1, 9)})
    with pytest.raises(InputError, match="asks for captions 1, 2, 3, 4, 5 and 2 more, but each or all that is true"):
        read_positives("mine", *paths, image_ids=[70], caption_ids=[8])


def test_a_missing_file_and_an_id_given_twice_are_errors(tmp_path: Path) -> None:
    paths = write(tmp_path, {}, {})
    with pytest.raises(InputError, match="an id occurs twice"):
        read_positives("mine", *paths, image_ids=[70, 70], caption_ids=[7])
    paths[1].unlink()
    with pytest.raises(InputError, match=r"caption_to_image\.json is missing"):
        read_positives("mine", *paths, image_ids=[70], caption_ids=[7])


def paths_of(name: str) -> tuple[Path, Path]:
    return REAL / f"{name}_image_to_caption.json", REAL / f"{name}_caption_to_image.json"


def read_real(name: str) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    images, captions = (
        {int(key): ids for key, ids in json.loads(path.read_bytes()).items()} for path in paths_of(name)
    )
    return images, captions


class Coco5K:
    """COCO's 5K test split in the published order, and scores of it: whole numbers of low rank, better for true pairs.

    Sums of whole numbers below 2**53 are exact in float64, so rows and columns can be computed in any pieces; and among
    numbers that large there are no ties, which a sort would leave in any order.
    """

    def __init__(self) -> None:
        images, captions = read_real("original")
        self.caption_ids: list[int] = np.load(REAL / "coco_test_ids.npy").tolist()
        self.image_ids = list(dict.fromkeys(captions[caption][0] for caption in self.caption_ids))
        row = {image: place for place, image in enumerate(self.image_ids)}
        self.caption_image: Index = np.array([row[captions[caption][0]] for caption in self.caption_ids])
        random = np.random.default_rng(0)
        self.images = random.integers(-(2**20), 2**20, (len(images), 16)).astype(np.float64)
        noise = random.integers(-(2**20), 2**20, (len(self.caption_ids), 16))
        self.captions = self.images[self.caption_image] + noise
        self.shape = len(self.image_ids), len(self.caption_ids)

    def blocks(self) -> Iterator[tuple[int, Numbers]]:
        for start in range(0, len(self.images), 300):
            yield start, self.images[start : start + 300] @ self.captions.T


def best_ten(queries: Numbers, candidates: Numbers, ids: list[int]) -> list[list[int]]:
    """The ids of each query's ten best candidates, best first."""
    found = []
    for start in range(0, len(queries), 500):
        scores = queries[start : start + 500] @ candidates.T
        best = np.argpartition(scores, -10, axis=1)[:, -10:]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
        found += [[ids[place] for place in places] for places in np.take_along_axis(best, order, 1)]
    return found


def recall_by_ids(retrieved: dict[int, list[int]], truth: dict[int, list[int]], k: int) -> float:
    """As the published evaluator counts: over the queries of the ground truth, whether one of the first k is true."""
    hits = [bool(set(retrieved[query][:k]) & set(true)) for query, true in truth.items()]
    return sum(hits) / len(hits)


@pytest.fixture(scope="module")
def coco() -> Coco5K:
    return Coco5K()


@needs_real
def test_the_published_pairs_agree_in_both_directions_and_are_five_captions_an_image(coco: Coco5K) -> None:
    images, captions = read_real("original")
    assert {(image, caption) for image, ids in images.items() for caption in ids} == {
        (image, caption) for caption, ids in captions.items() for image in ids
    }
    # COCO's split has 25,010 captions. This ground truth, as others do, keeps five of each image.
    assert coco.shape == (5_000, 25_000)
    assert {len(ids) for ids in images.values()} == {5}
    assert {len(ids) for ids in captions.values()} == {1}
    assert sorted(coco.caption_ids) == sorted(captions)
    positives = read_positives("COCO", *paths_of("original"), coco.image_ids, coco.caption_ids)
    for pairs in (positives.image_to_text, positives.text_to_image):
        order = np.argsort(pairs.columns)
        np.testing.assert_array_equal(pairs.columns[order], np.arange(25_000))
        np.testing.assert_array_equal(pairs.rows[order], coco.caption_image)


@needs_real
@pytest.mark.slow("5,000 x 25,000 scores, counted plainly")
def test_recall_of_coco_5k_and_of_extended_pairs_equals_counting_by_ids(coco: Coco5K) -> None:
    of_image = dict(zip(coco.image_ids, best_ten(coco.images, coco.captions, coco.caption_ids), strict=True))
    of_caption = dict(zip(coco.caption_ids, best_ten(coco.captions, coco.images, coco.image_ids), strict=True))
    for name, queries in {"original": (5_000, 25_000), "cxc": (5_000, 24_972), "eccv": (1_261, 1_332)}.items():
        images, captions = read_real(name)
        assert (len(images), len(captions)) == queries
        positives: Positives | None = None
        if name != "original":
            positives = read_positives(name, *paths_of(name), coco.image_ids, coco.caption_ids)
            assert positives.unscored == {"cxc": 0, "eccv": 2}[name]
        metrics = retrieval_metrics(coco, coco.caption_image, positives=positives)
        for k in (1, 5, 10):
            assert metrics.image_to_text_recall[k] == pytest.approx(recall_by_ids(of_image, images, k))
            assert metrics.text_to_image_recall[k] == pytest.approx(recall_by_ids(of_caption, captions, k))
        # Neither all nor nothing is found: the comparison can fail.
        assert 0.05 < metrics.image_to_text_recall[1] < 0.95
        assert 0.05 < metrics.text_to_image_recall[1] < 0.95


def walked(queries: Numbers, candidates: Numbers, ids: list[int], true: list[list[int]]) -> tuple[float, float]:
    """mAP@R and R-Precision, going down the list of the R best of each query."""
    average, share = [], []
    for query, own in zip(queries, true, strict=True):
        scores = query @ candidates.T
        best = np.argpartition(-scores, len(own))[: len(own)]
        hits = [ids[place] in own for place in best[np.argsort(-scores[best])].tolist()]
        average.append(sum(sum(hits[:k]) / k for k, hit in enumerate(hits, 1) if hit) / len(own))
        share.append(sum(hits) / len(own))
    return float(np.mean(average)), float(np.mean(share))


@needs_real
@pytest.mark.slow("5,000 x 25,000 scores, counted plainly")
def test_precisions_of_eccv_caption_equal_walking_down_the_lists(coco: Coco5K) -> None:
    images, captions = read_real("eccv")
    positives = read_positives("eccv", *paths_of("eccv"), coco.image_ids, coco.caption_ids)
    found = measure_positives(coco, coco.caption_image, positives)
    assert found.unscored_captions == (144675, 467259)
    rows = [coco.image_ids.index(image) for image in images]
    expected = walked(coco.images[rows], coco.captions, coco.caption_ids, list(images.values()))
    assert (found.image_to_text_map_at_r, found.image_to_text_r_precision) == pytest.approx(expected)
    column = {caption: place for place, caption in enumerate(coco.caption_ids)}
    columns = [column[caption] for caption in captions]
    expected = walked(coco.captions[columns], coco.images, coco.image_ids, list(captions.values()))
    assert (found.text_to_image_map_at_r, found.text_to_image_r_precision) == pytest.approx(expected)


@needs_real
@pytest.mark.slow("5,000 x 25,000 scores")
def test_folds_of_1000_are_the_five_folds_of_coco_1k(coco: Coco5K) -> None:
    images, captions = read_real("original")
    image_recalls, caption_recalls = [], []
    for fold in range(5):
        caption_ids = coco.caption_ids[fold * 5_000 : (fold + 1) * 5_000]
        image_ids = list(dict.fromkeys(captions[caption][0] for caption in caption_ids))
        assert len(image_ids) == 1_000
        rows, columns = slice(fold * 1_000, (fold + 1) * 1_000), slice(fold * 5_000, (fold + 1) * 5_000)
        found = best_ten(coco.images[rows], coco.captions[columns], caption_ids)
        truth = {image: images[image] for image in image_ids}
        image_recalls.append(recall_by_ids(dict(zip(image_ids, found, strict=True)), truth, 1))
        found = best_ten(coco.captions[columns], coco.images[rows], image_ids)
        text_truth = {caption: captions[caption] for caption in caption_ids}
        caption_recalls.append(recall_by_ids(dict(zip(caption_ids, found, strict=True)), text_truth, 1))
    metrics = retrieval_metrics(coco, coco.caption_image, "folds:1000")
    assert metrics.image_to_text_recall[1] == pytest.approx(np.mean(image_recalls))
    assert metrics.text_to_image_recall[1] == pytest.approx(np.mean(caption_recalls))
