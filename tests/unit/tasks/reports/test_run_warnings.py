from __future__ import annotations

import json
from pathlib import Path

import pytest

from feature_extraction.samples.manifest import FeatureManifest
from tasks.reports.run_warnings import run_warnings
from tasks.storage.root import Root

FOLDER = "features/0123456789ab/coco/train"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def write(root: Root, objectives: dict[str, float], num_top: int = 0, num_classes: int = 0) -> None:
    """A pretraining run, and the features that it learned from."""
    job = {"train": {"features_path": f"/elsewhere/data/{FOLDER}"}, "pretrain": {"objectives": objectives}}
    root.publish_bytes("runs/pretrain-1/job.json", json.dumps(job).encode())
    manifest = FeatureManifest(
        format="rgn/2" if num_classes else "rgn/1",
        max_regions=4,
        feature_dim=8,
        encoding="sqrt8",
        num_top=num_top,
        num_classes=num_classes,
        labels=("cat", "dog", "tree"),
        extractor="e" * 64,
        extractor_details={},
        shards=(),
    )
    root.publish_model(f"{FOLDER}/manifest.json", manifest)


def test_a_run_that_learned_from_the_best_classes_alone_says_so(root: Root) -> None:
    write(root, {"mlm": 1, "mrc-kl": 1}, num_top=2)
    assert run_warnings(root, ["pretrain-1", "gone"]) == [
        "The targets of mrc-kl in pretrain-1 were not the detector's own: class scores are an approximation: the best "
        "2 of 3 classes are stored of each region, and what they leave is spread evenly over the others"
    ]


@pytest.mark.parametrize(
    ("objectives", "stored"),
    [
        ({"mlm": 1, "mrc-kl": 1}, {"num_classes": 3}),
        ({"mlm": 1, "mrc-kl": 1}, {"num_top": 3}),  # All of them: nothing is spread.
        ({"mlm": 1, "mrc-kl": 0}, {"num_top": 2}),
        ({"mlm": 1}, {"num_top": 2}),
        ({"mlm": 1, "mrc-kl": 1}, {}),
    ],
)
def test_a_run_that_did_not_says_nothing(root: Root, objectives: dict[str, float], stored: dict[str, int]) -> None:
    write(root, objectives, **stored)
    assert run_warnings(root, ["pretrain-1"]) == []
