"""Published files are whole or absent, and receipts decide what is done."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from tasks.errors import UserError
from tasks.records import Outcome, Receipt, Stage, fingerprint
from tasks.storage.root import Root, now


def receipt(root: Root, content: bytes = b"shard", mark: str = "a") -> Receipt:
    digest = root.publish_bytes("datasets/web/train/images/images-00003.tar", content)
    made = Receipt(
        stage=Stage.DOWNLOAD,
        dataset="web",
        split="train",
        shard=3,
        fingerprint=fingerprint({"mark": mark}),
        counts={Outcome.OK: 2, Outcome.NOT_FOUND: 1},
        files={"images-00003.tar": digest},
        seconds=1.5,
        created_at=now(),
    )
    root.publish_model("datasets/web/train/images/images-00003.json", made)
    return made


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_receipts_round_trip_and_decide_what_is_done(tmp_path: Path, kind: str) -> None:
    root = Root(str(tmp_path) if kind == "local" else f"memory://{tmp_path.name}-{kind}")
    path = "datasets/web/train/images/images-00003.json"
    assert root.done(path, "x") is None
    made = receipt(root)
    assert root.done(path, made.fingerprint) == made
    assert root.done(path, fingerprint({"mark": "b"})) is None
    root.publish_bytes("datasets/web/train/images/images-00003.tar", b"shar")
    assert root.done(path, made.fingerprint) is None


def test_content_digest_follows_the_bytes_and_not_the_clock(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    first = receipt(root)
    later = first.model_copy(update={"seconds": 9.0, "created_at": "2030-01-01T00:00:00+00:00"})
    assert later.content_digest() == first.content_digest()
    assert receipt(root, b"other").content_digest() != first.content_digest()


def test_publish_returns_the_digest_of_what_is_there(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    digest = root.publish("a/b.bin", lambda stream: stream.write(b"hello"))
    assert (digest.bytes, digest.sha256) == (5, hashlib.sha256(b"hello").hexdigest())
    assert root.read_bytes("a/b.bin") == b"hello"


def test_a_failed_write_leaves_the_file_before_and_nothing_else(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    root.publish_bytes("a/b.bin", b"before")

    def break_off(stream: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        root.publish("a/b.bin", break_off)
    assert root.read_bytes("a/b.bin") == b"before"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.bin"]


def test_kill_9_in_the_middle_of_a_write_shows_no_torn_file(tmp_path: Path) -> None:
    program = f"""
import time
from tasks.storage.root import Root

def slow(stream):
    stream.write(b"half")
    stream.flush()
    time.sleep(60)

Root({str(tmp_path)!r}).publish("shard.tar", slow)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[4])
    until = time.monotonic() + 60
    while not list(tmp_path.glob("*.part")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.wait()
    root = Root(str(tmp_path))
    assert root.names("") == []
    root.publish_bytes("shard.tar", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["shard.tar"]


def test_only_parts_of_dead_processes_of_this_very_machine_are_cleared(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, host, here = process.pid, platform.node(), Path("/proc/self/ns/pid").stat().st_ino
    kept = [
        f"shard.tar.{host}.{here + 1}.{dead}.0a0a0a0a.part",  # A container with the host's name: it may well live.
        f"shard.tar.other.{here}.{dead}.0a0a0a0a.part",
        f"shard.tar.{host}.{here}.{os.getppid()}.0a0a0a0a.part",
    ]
    cleared = [
        f"shard.tar.{host}.{here}.{dead}.0a0a0a0a.part",
        f"shard.tar.{host}.{dead}.part",  # As an older version named them.
    ]
    for name in kept + cleared:
        (tmp_path / name).touch()
    Root(str(tmp_path)).publish_bytes("shard.tar", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"shard.tar", *kept}


def test_two_writers_of_one_file_have_a_part_each(tmp_path: Path) -> None:
    root = Root(str(tmp_path))

    def write(stream: IO[bytes]) -> None:
        root.publish("shard.tar", lambda inner: inner.write(b"inner"))
        stream.write(b"outer")

    root.publish("shard.tar", write)
    assert root.read_bytes("shard.tar") == b"outer"
    assert [path.name for path in tmp_path.iterdir()] == ["shard.tar"]


def test_where_folders_cannot_be_synced_files_are_published_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    root = Root(str(tmp_path))
    root.publish_bytes("a/b.bin", b"whole")
    assert root.read_bytes("a/b.bin") == b"whole"
    root.remove("a/b.bin")
    assert root.names("a") == []


def test_lines_are_appended(tmp_path: Path) -> None:
    for root in (Root(str(tmp_path)), Root(f"memory://{tmp_path.name}-lines")):
        root.append_line("history.jsonl", "one")
        root.append_line("history.jsonl", "two")
        assert root.read_bytes("history.jsonl") == b"one\ntwo\n"


def test_a_receipt_changed_by_hand_is_an_error_that_names_it(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    root.publish_bytes("images-00000.json", b'{"stage": "download"}')
    with pytest.raises(UserError, match=r"images-00000\.json is not a Receipt .*remove it"):
        root.read_model("images-00000.json", Receipt)


def test_what_needs_a_local_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training needs a local root, and memory://x is not one"):
        Root("memory://x").local("runs", "training")
    with pytest.raises(UserError, match="cannot be opened"):
        Root("nosuch://x")


def test_an_unwritable_root_is_found_out_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot write under root"):
        Root(str(tmp_path / "file" / "root")).check_writable()
    Root(str(tmp_path / "new")).check_writable()
    assert list((tmp_path / "new").iterdir()) == []


def test_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


def test_empty_folders_are_removed_up_to_the_first_that_holds_anything(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    root.publish_bytes("a/b/c/file", b"")
    root.publish_bytes("a/other", b"")
    root.remove_empty_folders("a/b/c")
    assert root.exists("a/b/c/file")
    root.remove("a/b/c/file")
    root.remove_empty_folders("a/b/c/never made")
    assert root.names("a") == ["other"]
    root.remove("a/other")
    root.remove_empty_folders("a")
    assert list(tmp_path.parent.glob(tmp_path.name)) == [tmp_path]
    assert root.names("") == []
