"""How far a download is, read from a root alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.params.changes import with_settings
from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from flows.views.status import read_download_status, read_status, status_text
from tasks.config import DatasetConfig, TextDatasetConfig
from tasks.download.config import DownloadConfig
from tasks.download.fetching import Session
from tasks.download.journal import Journal, journal_file
from tasks.download.settings import keep_settings
from tasks.download.shard import download_shard
from tasks.download.text import make_text
from tasks.errors import UserError
from tasks.rows.manifest import list_shards, make_manifest
from tasks.storage.root import Root


def test_partial_download_tells_its_shards_and_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was downloaded under"):
        read_download_status(str(tmp_path / "my root"))
    root, config = Root(str(tmp_path / "my root")), DownloadConfig()
    rows = "".join(f"caption\thttp://10.0.0.1/{number}\n" for number in range(10))  # blocked: nothing is requested
    root.publish_bytes("rows.tsv", rows.encode())
    dataset = DatasetConfig(name="web", splits={"train": root.path("rows.tsv")}, shard_size=4)
    make_manifest(root, dataset, "train")
    keep_settings(root, dataset, "train", config)
    refs = list_shards(root, dataset, "train")
    with Session(dataset, "train", config) as session:
        download_shard(root, dataset, refs[0], session)
    with Journal(journal_file(root, refs[2]), "f", over_table=False):
        status = read_download_status(root.uri)
    (split,) = status.splits
    assert (split.name, split.rows, split.shards, split.downloaded, split.begun) == ("web/train", 10, 3, 1, 1)
    assert split.outcomes == {"blocked_address": 4} and not split.download_done
    assert status.next_command == f"unicoder-vl download --root '{root.uri}'"
    (line,) = [line for line in status_text(status).splitlines() if line.startswith("web/train")]
    assert line.split()[1:3] == ["10", "1/3"] and line.endswith("4 blocked_address; shards under way: 1")


def test_text_tells_its_passages_and_whether_it_is_finished(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    (tmp_path / "a.txt").write_text("some words of a passage\n\n" * 1500)
    text = TextDatasetConfig(name="wiki", splits={"train": (str(tmp_path / "a.txt"),)}, shard_passages=1000)
    make_text(root, text, "train")
    status = read_download_status(root.uri)
    assert status.next_command is None and status.splits == ()
    assert "wiki/train                   1,500  text; 1,500 blank lines left out" in status_text(status)
    root.remove("datasets/wiki/train/text/manifest.json")
    status = read_download_status(root.uri)
    assert status.next_command == f"unicoder-vl download --root {root.uri}"
    assert "wiki/train                       -  text under way" in status_text(status)


def test_text_of_an_experiment_is_shown_before_it_is_begun(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words of a passage\n" * 20)
    text = TextDatasetConfig(name="wiki", splits={"train": (str(tmp_path / "a.txt"),)})
    demo = with_settings(recipe("demo", str(tmp_path / "root")), ["encoder.family=vl-bert"])
    content = demo.model_dump(mode="json")
    content["text_dataset"] = text.model_dump(mode="json")
    content["pretrain"]["objectives"] = {"mlm": 1, "mlm-text": 1}
    params, root = RebuildParams.model_validate(content), Root(str(tmp_path / "root"))
    status = read_status(params, "--params p.json")
    assert "wiki/train                       -  text, not begun" in status_text(status)
    assert status.next_command == "unicoder-vl download --params p.json"
    make_text(root, text.model_copy(update={"name": "other"}), "train")
    make_text(root, text, "train")
    assert [(one.name, one.passages) for one in read_status(params, "").texts] == [
        ("other/train", 20),
        ("wiki/train", 20),
    ]
