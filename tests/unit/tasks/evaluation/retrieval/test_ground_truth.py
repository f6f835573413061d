"""Finished scores, measured by files of several true candidates: ids are found again, refusals name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.downstream.retrieval.scores import Plan, begin_scores, write_block
from tasks.config import DatasetConfig, RowsConfig
from tasks.download.config import DownloadConfig
from tasks.download.settings import keep_settings
from tasks.errors import UserError
from tasks.evaluation.retrieval.ground_truth import (
    check_ground_truths,
    find_ground_truth,
    measure_ground_truths,
    unscored_text,
)
from tasks.rows.manifest import make_manifest
from tasks.storage.root import Root

KARPATHY = {
    "images": [
        # An image of another split, and the three of this one: each caption's sentid follows its image's cocoid.
        {
            "filename": "a.jpg",
            "filepath": "v",
            "split": "train",
            "cocoid": 10,
            "sentences": [{"raw": "x", "sentid": 1}],
        },
        *(
            {
                "filename": f"{name}.jpg",
                "filepath": "v",
                "split": "test",
                "cocoid": number,
                "imgid": 1,
                "sentences": [{"raw": f" {text} ", "sentid": number + place} for place, text in enumerate(texts, 1)],
            }
            for name, number, texts in (("b", 20, ("a dog", "a dog")), ("c", 30, ("x", "y")), ("d", 40, ("x", "z")))
        ),
    ]
}
COCO = {
    "images": [
        {"id": image["cocoid"], "file_name": image["filename"]}
        for image in KARPATHY["images"]
        if image["split"] == "test"
    ],
    "annotations": [
        {"id": sentence["sentid"], "image_id": image["cocoid"], "caption": sentence["raw"]}
        for image in reversed(KARPATHY["images"])
        for sentence in image["sentences"]
    ],
}
SCORES = np.array(
    [
        [9, 8, 1, 2, 3, 4],
        [1, 9, 8, 7, 2, 3],
        [1, 2, 9, 3, 8, 4],
    ],
    np.float32,
)


def split(tmp_path: Path, content: dict[str, Any]) -> Root:
    """A root with the manifest of the three images, and what it was downloaded from."""
    root = Root(str(tmp_path / "root"))
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))
    source = RowsConfig(rows=str(path), images=str(tmp_path / "pictures"))
    dataset = DatasetConfig(name="coco", splits={"test": source})
    make_manifest(root, dataset, "test")
    keep_settings(root, dataset, "test", DownloadConfig())
    return root


def scored(tmp_path: Path, images: list[str], captions: list[str], scores: np.ndarray = SCORES) -> Path:
    folder = tmp_path / "scores"
    plan = Plan(images=len(images), captions=len(captions), rows=2, identity={})
    owners = np.array([int(caption) // 2 for caption in captions]) - int(images[0]) // 2
    plan = begin_scores(folder, plan, images, captions, owners)
    for block in range(plan.blocks):
        write_block(folder, plan, block, scores[list(plan.rows_of(block))])
    return folder


WAYS = ("image_to_caption", "caption_to_image")
KEYS = [f"{2 * image:09d}" for image in range(3)], [f"{caption:09d}" for caption in range(6)]


def write(tmp_path: Path, images: object, captions: object, name: str = "mine") -> str:
    (tmp_path / f"{name}_caption_to_image.json").write_text(json.dumps(captions))
    path = tmp_path / f"{name}_image_to_caption.json"
    path.write_text(json.dumps(images))
    return str(path)


@pytest.mark.parametrize("content", [KARPATHY, COCO])
def test_scores_are_measured_by_published_ids(tmp_path: Path, content: dict[str, Any]) -> None:
    root = split(tmp_path, content)
    folder = scored(tmp_path, *KEYS)
    # Image 20 has captions 21 and 22 first, and 41 but fourth; image 30 has 22 first, which is not its own.
    path = write(tmp_path, {"20": [21, 22, 41], "30": [22]}, {"41": [20, 40], "31": [30]})
    check_ground_truths(root, "coco", "test", [path], None)
    before = sorted(folder.iterdir())
    ((name, metrics),) = measure_ground_truths(root, folder, "coco", "test", [path], None, None).items()
    assert metrics.image_to_text_r_precision == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.image_to_text_map_at_r == pytest.approx((2 / 3 + 1) / 2)
    # Caption 41 is the fifth column: images score 3, 2, 8. Its true ones are first and second. Caption 31: 1, 8, 9.
    assert (metrics.text_to_image_r_precision, metrics.text_to_image_map_at_r) == (0.5, 0.5)
    assert metrics.recall.image_to_text_recall[1] == 1 and metrics.recall.text_to_image_recall[1] == 0.5
    assert (metrics.name, set(metrics.files)) == ("mine", {f"mine_{way}.json" for way in WAYS})
    assert sorted(folder.iterdir()) == sorted([*before, folder / name])
    assert json.loads((folder / name).read_bytes())["recall"]["text_to_image_recall"]["1"] == 0.5
    # Named by the files' content: the same again, and another beside it.
    assert set(measure_ground_truths(root, folder, "coco", "test", [path], None, None)) == {name}
    other = write(tmp_path, {"20": [21]}, {"21": [20]}, "other")
    both = measure_ground_truths(root, folder, "coco", "test", [path, other], None, None)
    assert len(both) == 2 and len(list(folder.glob("positives-*.json"))) == 2


def test_equal_texts_of_an_image_have_their_ids_in_order(tmp_path: Path) -> None:
    root = split(tmp_path, KARPATHY)
    folder = scored(tmp_path, *KEYS)
    first, second = write(tmp_path, {"20": [21]}, {"21": [20]}, "a"), write(tmp_path, {"20": [22]}, {"22": [20]}, "b")
    found = measure_ground_truths(root, folder, "coco", "test", [first, second], None, None).values()
    assert [metrics.image_to_text_r_precision for metrics in found] == [1, 0]


def test_a_file_of_ids_that_has_moved_is_named(tmp_path: Path) -> None:
    root = split(tmp_path, KARPATHY)
    folder, path = scored(tmp_path, *KEYS), write(tmp_path, {"20": [21]}, {"21": [20]})
    moved = (tmp_path / "rows.json").rename(tmp_path / "moved.json")
    with pytest.raises(UserError, match=r"ids of coco/test \(--ids\) not found: .*rows\.json"):
        measure_ground_truths(root, folder, "coco", "test", [path], None, None)
    assert len(measure_ground_truths(root, folder, "coco", "test", [path], str(moved), None)) == 1


def test_rows_of_no_published_form_are_named_by_the_numbers_of_their_keys(tmp_path: Path) -> None:
    root, folder = Root(str(tmp_path)), scored(tmp_path, *KEYS)
    path = write(tmp_path, {"0": [0, 1]}, {"0": [0], "5": [4]})
    (metrics,) = measure_ground_truths(root, folder, "web", "test", [path], None, None).values()
    assert (metrics.image_to_text_map_at_r, metrics.text_to_image_r_precision) == (1, 0.5)


def test_what_was_not_scored_is_named(tmp_path: Path) -> None:
    root = split(tmp_path, KARPATHY)
    folder = scored(tmp_path, KEYS[0][:2], KEYS[1][:3], SCORES[:2, :3])
    # The sixth captions of two images, as ECCV Caption has them, and an image: they belong to R.
    path = write(tmp_path, {"20": [21, 777, 41], "30": [31, 777]}, {"21": [20, 40]})
    (metrics,) = measure_ground_truths(root, folder, "coco", "test", [path], None, None).values()
    assert (metrics.unscored_captions, metrics.unscored_images) == ((41, 777), (40,))
    assert unscored_text(metrics) == "mine: not scored, so never found: captions 41, 777; images 40"
    assert metrics.text_to_image_r_precision == 0.5
    # A query that was not scored is bad input, and nothing is written.
    written = sorted(folder.iterdir())
    bad = write(tmp_path, {"20": [21], "40": [41], "50": [21]}, {"21": [20]}, "bad")
    with pytest.raises(UserError, match=r"bad_image_to_caption\.json asks for images 40, 50, but each or all"):
        measure_ground_truths(root, folder, "coco", "test", [path, bad], None, None)
    assert sorted(folder.iterdir()) == written
    # What the split does not have at all is refused before anything is scored; what it has may get its regions yet.
    check_ground_truths(root, "coco", "test", [path], None)
    with pytest.raises(UserError, match="asks for image 50, but it or all that is true of it was not scored"):
        check_ground_truths(root, "coco", "test", [bad], None)


def test_files_of_another_name_or_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pairs\.json is named neither NAME_image_to_caption\.json nor"):
        find_ground_truth(str(tmp_path / "pairs.json"))
    with pytest.raises(UserError, match=r"mine_image_to_caption\.json is missing; name a file of ECCV Caption's form"):
        find_ground_truth(str(tmp_path / "mine_image_to_caption.json"))
    path = write(tmp_path, {}, [])
    with pytest.raises(UserError, match=r"mine_caption_to_image\.json is no JSON of the form"):
        find_ground_truth(path)
    write(tmp_path, {}, {})
    found = find_ground_truth(path.replace(*WAYS))
    assert (found.name, str(found.image_to_caption)) == ("mine", path)


def test_empty_directions_and_files_without_ids_are_refused(tmp_path: Path) -> None:
    root = split(tmp_path, KARPATHY)
    folder, path = scored(tmp_path, *KEYS), write(tmp_path, {"20": [21]}, {})
    with pytest.raises(UserError, match=r"mine_image_to_caption\.json: .*hold no query of the ground truth"):
        measure_ground_truths(root, folder, "coco", "test", [path], None, None)
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps({"images": [{"filename": "b.jpg", "sentences": [{"raw": "a dog"}]}]}))
    with pytest.raises(UserError, match=r"ids\.json gives no ids to images and captions"):
        measure_ground_truths(root, folder, "coco", "test", [path], str(ids), None)
    ids.write_text(json.dumps(KARPATHY).replace(".jpg", ".png"))
    with pytest.raises(UserError, match="names none of the 3 images of coco/test by its file name"):
        measure_ground_truths(root, folder, "coco", "test", [path], str(ids), None)
