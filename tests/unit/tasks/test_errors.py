"""A full disk is named: which, how full, and what was written."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import disk_full_text

REPOSITORY = Path(__file__).parents[3]
_PROGRAM = """
import json, sys
import pyarrow as pa, pyarrow.parquet as pq
from tasks.errors import disk_full_text, is_disk_full
from tasks.storage.root import Root

root = Root(sys.argv[1])
table = pa.table({"text": [str(number) for number in range(50_000)]})
writes = [
    lambda: root.publish_bytes("deep/a.bin", bytes(100_000)),
    lambda: root.publish("deep/a.parquet", lambda out: pq.write_table(table, out)),
    lambda: root.append_line("history.jsonl", "x" * 100_000),
]
told = []
for write in writes:
    try:
        write()
    except OSError as error:
        assert is_disk_full(error)
        told.append(disk_full_text(error))
print(json.dumps(told))
"""


def test_a_full_disk_is_told_with_its_room_and_the_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=64k tmpfs {disk}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$0" -c "$1" {disk}', sys.executable, _PROGRAM]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True)
    told = json.loads(done.stdout)
    assert len(told) == 3
    for sentence, name in zip(told, ("deep/a.bin", "deep/a.parquet", "history.jsonl"), strict=True):
        assert sentence.startswith(f"the disk is full while writing {disk}/{name} (")
        assert f" of 66 kB free on {disk}); free some space and run the same command again" in sentence


def test_a_share_of_a_disk_that_is_used_up_is_told_apart() -> None:
    used_up = disk_full_text(OSError(errno.EDQUOT, "Disk quota exceeded", "/data/a.tar"))
    assert used_up.startswith("your share of the disk is used up while writing /data/a.tar; free some space")
