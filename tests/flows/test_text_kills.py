"""kill -9 of a download of text at random moments: whole shards are kept, and the corpus ends the same."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from model.data.text_shards import TextManifest

REPOSITORY = Path(__file__).parents[2]
LINES, SHARD = 60_000, 1_000
KILLS = 4


def start(folder: Path, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows", "download", "--text", str(folder / "a.txt"), "--text"]
    command += [str(folder / "more/*.txt.gz"), "--name", "wiki/train", "--root", str(root), "--shard-size", str(SHARD)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(folder: Path, root: Path) -> str:
    process = start(folder, root)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def text_of(root: Path) -> Path:
    return root / "datasets/wiki/train/text"


def made(root: Path) -> dict[str, int]:
    """Shards that have a receipt, and when each was written."""
    receipts = text_of(root).glob("text-*.json")
    return {path.stem: path.with_suffix(".parquet").stat().st_mtime_ns for path in receipts}


def write_files(folder: Path) -> list[str]:
    """A plain file and two packed ones; their passages."""
    draw = random.Random(0)
    lines = ["" if number % 11 == 5 else f"{number} {'word ' * draw.randint(1, 60)}" for number in range(LINES)]
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_text("\n".join(lines[:20_000]) + "\n")
    for name, part in (("b", lines[20_000:45_000]), ("c", lines[45_000:])):
        (folder / f"more/{name}.txt.gz").write_bytes(gzip.compress(("\n".join(part) + "\n").encode()))
    return [line.strip() for line in lines if line]


def test_a_killed_download_of_text_goes_on_behind_its_last_whole_shard(tmp_path: Path) -> None:
    passages = write_files(tmp_path / "input")
    finish(tmp_path / "input", tmp_path / "whole")
    draw = random.Random(1)
    root = tmp_path / "killed"
    killed = 0
    for number in range(KILLS):
        before = made(root)
        goal = len(before) + draw.randint(1, 8)
        process = start(tmp_path / "input", root)
        while process.poll() is None and len(made(root)) < goal:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.01)
        if process.poll() is None:
            killed += 1
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (text_of(root) / "manifest.json").exists(), f"kill {number} came too late"
        for path in text_of(root).glob("*.parquet"):
            assert pq.read_metadata(path).num_rows == SHARD
        after = made(root)
        assert {name: after[name] for name in before} == before  # None of them was made again.
    assert killed == KILLS

    before = made(root)
    assert before
    said = finish(tmp_path / "input", root)
    assert {name: made(root)[name] for name in before} == before
    assert said.count(f"{SHARD} passages (") == len(passages) // SHARD - len(before)
    whole, ended = text_of(tmp_path / "whole"), text_of(root)
    for path in sorted(whole.glob("*.parquet")):
        assert path.read_bytes() == (ended / path.name).read_bytes()
    assert (whole / "manifest.json").read_bytes() == (ended / "manifest.json").read_bytes()
    manifest = TextManifest.model_validate_json((ended / "manifest.json").read_bytes())
    assert (manifest.passages, manifest.blank) == (len(passages), LINES - len(passages))
    read = [text for shard in manifest.shards for text in pq.read_table(ended / shard.name)["text"].to_pylist()]
    assert read == passages
    assert not list(root.rglob("*.part")) and not (root / "locks").exists()
