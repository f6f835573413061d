"""The download command: parts of a list, failures again, changed settings, and what later stages make of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks.world
from feature_extraction.config import ExtractorConfig
from tasks.extract.shard import extract_shard
from tasks.records import ShardRef
from tasks.storage.root import Root
from tests.faults import serving

REPOSITORY = Path(__file__).parents[2]
EXTRACTOR = ExtractorConfig(
    backend="torchvision",
    model="small",
    weights=str(Path(tasks.world.__file__).with_name("detector.safetensors")),
    max_regions=6,
    num_proposals=32,
    device="cpu",
)
SETTINGS = ("allow_private_addresses=true", "min_side=8", "backoff_seconds=0.01", "threads=4", "env_proxies=false")


@pytest.fixture
def server() -> Iterator[Any]:
    with serving() as running:
        yield running


def command(root: Path, *more: str) -> list[str]:
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    rows = ["--rows", str(root.parent / "rows.tsv"), "--name", "web/train", "--shard-size", "4", "--root", str(root)]
    return [sys.executable, "-m", "flows", "download", *rows, *options, *more]


def run(root: Path, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(root, *more), cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    (summary,) = json.loads(done.stdout.splitlines()[-1])["stages"]
    found: dict[str, int] = summary["counts"]
    return found


@pytest.fixture
def root(server: Any, tmp_path: Path) -> Path:
    """Where to download twelve rows, three shards: one of the first and two of the last are asleep at first."""
    paths = ["ok", "once", "ok", "404", "ok", "ok", "ok", "ok", "once", "ok", "once", "ok"]
    rows = "".join(f"caption {number}\t{server.url}/{path}/{number}\n" for number, path in enumerate(paths))
    (tmp_path / "rows.tsv").write_text(rows)
    return tmp_path / "root"


def test_failures_come_back_and_only_their_shards_are_extracted_again(server: Any, root: Path) -> None:
    first = run(root, "--set", "retries=0", "--json")
    assert counts(first) == {"http_5xx": 3, "not_found": 1, "ok": 8}
    extracted = [extract(root, shard) for shard in range(3)]
    assert extracted == [False] * 3
    before = {path.name: path.stat().st_mtime_ns for path in root.rglob("images-*.tar")}

    # One of the three is tried again: of shard 0.
    some = run(root, "--only-failed", "--shards", "0", "--json")
    assert counts(some) == {"http_5xx": 2, "not_found": 1, "ok": 9}
    assert [extract(root, shard) for shard in range(3)] == [False, True, True]
    after = {path.name: path.stat().st_mtime_ns for path in root.rglob("images-*.tar")}
    assert [name for name in after if after[name] != before[name]] == ["images-00000.tar"]

    rest = run(root, "--only-failed", "--json")
    assert counts(rest) == {"not_found": 1, "ok": 11}
    assert [extract(root, shard) for shard in range(3)] == [True, True, False]
    asked = dict(server.requests)
    assert {path: count for path, count in asked.items() if count != 1} == {"/once/1": 2, "/once/8": 2, "/once/10": 2}

    (rows_file := root.parent / "rows.tsv").rename(root.parent / "moved.tsv")
    bare = [sys.executable, "-m", "flows", "download", "--root", str(root)]
    again = subprocess.run([*bare, "--only-failed"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr  # the root knows its settings, and the manifest its rows
    (root.parent / "moved.tsv").rename(rows_file)
    run(root)
    assert server.requests == asked


def extract(root: Path, shard: int) -> bool:
    """Whether a shard's regions were there before."""
    return extract_shard(Root(str(root)), ShardRef(dataset="web", split="train", shard=shard), EXTRACTOR).skipped


def test_a_list_can_be_downloaded_in_parts(server: Any, root: Path) -> None:
    part = run(root, "--shards", "1", "--json")
    assert counts(part) == {"ok": 4}
    assert "captions wait for 2 of 3 shards" in part.stderr
    assert sorted(path.name for path in root.rglob("images-*.tar")) == ["images-00001.tar"]
    assert not list(root.rglob("captions.parquet"))
    bare = [sys.executable, "-m", "flows", "download", "--root", str(root), "--json"]
    whole = subprocess.run(bare, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert whole.returncode == 0, whole.stderr  # the root knows where its rows lie
    assert counts(whole) == {"not_found": 1, "ok": 11}
    assert len(list(root.rglob("captions.parquet"))) == 1
    assert server.requests["/ok/4"] == 1


def test_other_settings_and_other_rows_are_refused_until_they_are_accepted(server: Any, root: Path) -> None:
    run(root)
    asked = server.requests.total()
    refused = run(root, "--set", "min_side=9", code=2)
    assert "min_side=8 then, 9 now" in refused.stderr and refused.stderr.count("\n") == 1
    rows = root.parent / "rows.tsv"
    rows.write_text(rows.read_text().replace("caption 5\t", "another caption\t"))
    refused = run(root, code=2)
    assert "web/train" in refused.stderr and "--accept-changes" in refused.stderr
    assert server.requests.total() == asked
    done = run(root, "--accept-changes", "--json")
    assert "1 shards done" not in done.stdout
    assert server.requests.total() == asked + 4  # the one shard that holds the row
    run(root)
    assert server.requests.total() == asked + 4


def test_force_downloads_the_chosen_shards_again(server: Any, root: Path) -> None:
    run(root)
    server.requests.clear()
    run(root, "--force", "--shards", "1")
    assert server.requests == {f"/ok/{number}": 1 for number in range(4, 8)}


def test_too_few_images_fail_with_the_reasons(server: Any, root: Path) -> None:
    done = run(root, "--set", "min_success_rate=0.95", code=1)
    assert "11 of 12 rows ended ok, below download.min_success_rate=0.95: 11 ok, 1 not_found" in done.stderr
    assert len(list(root.rglob("captions.parquet"))) == 1  # what is there is there


def test_nothing_selected_is_an_error(server: Any, root: Path) -> None:
    assert "shards='7' selects none" in run(root, "--shards", "7", code=2).stderr
    assert "no manifest" in run(root.parent / "other", "--only-failed", code=2).stderr


def test_ctrl_c_ends_at_once_with_its_own_code_and_loses_nothing(server: Any, tmp_path: Path) -> None:
    rows = [f"a\t{server.url}/{'hang' if number > 5 else 'ok'}/{number}\n" for number in range(12)]
    (tmp_path / "rows.tsv").write_text("".join(rows))
    root = tmp_path / "root"
    process = subprocess.Popen(
        command(root, "--set", "read_timeout_seconds=60", "--set", "deadline_seconds=60"),
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while len(server.requests) < 10:
        assert time.monotonic() < until
        time.sleep(0.02)
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - begun < 10
    assert "Traceback" not in said and "interrupted" in said
    assert list(root.rglob("*.journal"))
