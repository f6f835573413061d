"""A download of text: as a command, with its exit codes, and as a Prefect flow, with its tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from flows.download import download
from flows.params.shards import DownloadParams
from tasks.config import DatasetConfig, RowsConfig, TextDatasetConfig

REPOSITORY = Path(__file__).parents[2]
TEXT = "some words of one passage\n\n" * 30


def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_text_is_downloaded_by_a_command_and_goes_on_without_options(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    root = ["--root", str(tmp_path / "root")]
    named = ["--text", str(tmp_path / "*.txt"), "--name", "wiki/train", "--shard-size", "20"]
    (first,) = json.loads(run("download", *named, *root, "--json").stdout.splitlines()[-1])["stages"]
    assert (first["name"], first["ran"], first["skipped"]) == ("wiki/train", 2, 0)
    assert first["counts"] == {"passages": 30, "blank": 30}
    again = run("download", *root).stdout
    assert again == "wiki/train: 0 shards done, 2 done before; 30 blank, 30 passages\n"
    assert "wiki/train" in run("status", *root).stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntw\xf6\n", "line 2 is not UTF-8 text"),
        (b"", "is empty"),
        (b"one two three\n", "has 3 words, and a row of training takes 64"),
    ],
)
def test_bad_text_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    root = tmp_path / "root"
    said = run("download", "--text", str(tmp_path / "bad.txt"), "--root", str(root), code=2).stderr
    assert message in said and "Traceback" not in said
    assert not (root / "datasets/text/train/text/manifest.json").exists()


@pytest.mark.flow
@pytest.mark.usefixtures("prefect_harness")
def test_text_and_pictures_are_downloaded_by_one_flow(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "rows.csv").write_text("caption,file\na dog,absent.jpg\n")
    (tmp_path / "pictures").mkdir()
    rows = RowsConfig(rows=str(tmp_path / "rows.csv"), images=str(tmp_path / "pictures"))
    params = DownloadParams(
        root_uri=str(tmp_path / "root"),
        datasets=(DatasetConfig(name="web", splits={"train": rows}),),
        texts=(TextDatasetConfig(name="wiki", splits={"train": (str(tmp_path / "a.txt"),)}),),
        max_workers=1,
    )
    text, pictures = download(params)
    assert (text.name, text.ran, text.counts) == ("wiki/train", 1, {"passages": 30, "blank": 30})
    assert (pictures.name, pictures.ran) == ("web/train", 1)
    only_text = download(params.model_copy(update={"only": ("wiki/train",)}))
    assert [(one.name, one.ran, one.skipped) for one in only_text] == [("wiki/train", 0, 1)]
    with get_client(sync_client=True) as client:
        assert {run.name for run in client.read_task_runs()} >= {"wiki/train"}
        tables = [artifact for artifact in client.read_artifacts() if artifact.key == "shards-text"]
    assert len(tables) == 2 and all("wiki/train" in str(table.data) for table in tables)
