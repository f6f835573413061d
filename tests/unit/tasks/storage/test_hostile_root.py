"""What others can write under a shared root names no file outside of the folders that its names are put in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.config import DatasetConfig
from tasks.errors import UserError
from tasks.records import FileDigest
from tasks.storage.root import Root
from tasks.training.runs import choose_checkpoint, find_run
from tests.s3_server import Bucket

OUTSIDE = ["../../etc", "/etc", "a/b", "..", "", "a\\b", "a\n"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_of_datasets_and_splits_are_single_folders(name: str) -> None:
    for make in (
        lambda: DatasetConfig(name=name, splits={"train": "rows.tsv"}),
        lambda: DatasetConfig(name="web", splits={name: "rows.tsv"}),
    ):
        with pytest.raises(ValidationError, match="becomes a folder name"):
            make()


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "checkpoints/../../../../etc"},
        {"checkpoint": "/etc"},
        {"weights_sha256": "../../../../../.ssh"},
    ],
)
def test_a_result_is_a_checkpoint_of_its_own_run(tmp_path: Path, change: dict[str, str]) -> None:
    """Both of its names become folders on the machine that reads it."""
    root = Root(str(tmp_path))
    final = {"step": 5, "checkpoint": "checkpoints/step-0000005", "weights_sha256": "ab" * 32}
    root.publish_bytes("runs/pretrain-1/job.json", json.dumps({"pretrain": {"seed": 0}}).encode())
    root.publish_bytes("runs/pretrain-1/final.json", json.dumps(final).encode())
    root.publish_bytes("runs/pretrain-1/checkpoints/step-0000005/model.safetensors", b"weights")
    run = find_run(root, "pretrain-1")
    assert choose_checkpoint(root, run, "result").step == 5
    root.publish_bytes("runs/pretrain-1/final.json", json.dumps(final | change).encode())
    with pytest.raises(UserError, match=r"final\.json is not a FinalRecord"):
        choose_checkpoint(root, run, "result")


def test_a_run_is_one_of_those_under_the_root(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    Root(str(tmp_path)).publish_bytes("outside/job.json", b'{"pretrain": {"seed": 0}}')
    root.publish_bytes("runs/pretrain-1/job.json", b'{"pretrain": {"seed": 0}}')
    for name in ("../../outside", str(tmp_path / "outside"), ".", ""):
        with pytest.raises(UserError, match="there is no run"):
            find_run(root, name)


def test_a_digest_names_one_file() -> None:
    assert FileDigest(bytes=1, sha256="ab" * 32)
    for sha256 in ("../../x", "/x", "a.b"):
        with pytest.raises(ValidationError):
            FileDigest(bytes=1, sha256=sha256)


def test_objects_that_are_called_like_folders_above_are_passed_over(bucket: Bucket) -> None:
    bucket.put("root/runs/..", b"x")
    bucket.put("root/runs/../../../.ssh/authorized_keys", b"x")
    bucket.put("root/runs/a", b"x")
    assert Root(f"{bucket.uri}/root").names("runs") == ["a"]
