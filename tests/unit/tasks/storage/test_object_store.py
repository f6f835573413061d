"""A root on an object store does what a local one does; and says in one sentence what is wrong with it."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import StorageError, UserError
from tasks.records import FileDigest, Outcome, Receipt, Stage
from tasks.storage.root import Root, now
from tests.s3_server import Bucket

REPOSITORY = Path(__file__).parents[4]


@pytest.fixture(params=["folder", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    """An empty root of each kind."""
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        return Root(f"{bucket.uri}/some/folder/")
    return Root(str(tmp_path / "root") if request.param == "folder" else f"memory://{tmp_path.name}/{tmp_path}")


def test_files_are_found_by_name_read_in_any_order_replaced_and_removed(root: Root) -> None:
    root.check_writable()
    assert root.names("") == [] and root.names("a") == [] and not root.exists("a") and root.size("a/b.bin") is None
    content = bytes(range(256)) * 100
    assert root.publish("a/b.bin", lambda stream: stream.write(content)) == FileDigest(
        bytes=25_600, sha256=hashlib.sha256(content).hexdigest()
    )
    root.publish_bytes("a/c/d.json", b"{}")
    root.publish_bytes("ab.txt", b"")
    assert root.names("") == ["a", "ab.txt"] and root.names("a") == ["b.bin", "c"] and root.names("a/b.bin") == []
    assert root.exists("a") and root.exists("a/b.bin") and root.exists("ab.txt") and not root.exists("a/b")
    assert root.size("a/b.bin") == 25_600 and root.size("ab.txt") == 0
    with root.open("a/b.bin") as stream:
        assert stream.seek(-6, 2) == 25_594 and stream.read() == content[-6:]
        assert stream.seek(300) == 300 and stream.read(4) == content[300:304] and stream.tell() == 304
        stream.seek(0)
        assert stream.read() == content and stream.read() == b""
    root.publish_bytes("a/b.bin", b"other")
    assert root.read_bytes("a/b.bin") == b"other"
    root.remove("a/b.bin")
    root.remove("a/b.bin")
    assert root.names("a") == ["c"] and not root.exists("a/b.bin")
    for read in (root.read_bytes, lambda path: root.open(path).__enter__()):
        with pytest.raises(FileNotFoundError):
            read("a/b.bin")


def test_receipts_decide_what_is_done(root: Root) -> None:
    digest = root.publish_bytes("images/images-00003.tar", b"shard")
    path = "images/images-00003.json"
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset="web",
        split="train",
        shard=3,
        fingerprint="f",
        counts={Outcome.OK: 2},
        files={"images-00003.tar": digest},
        seconds=1.5,
        created_at=now(),
    )
    assert root.done(path, "f") is None
    root.publish_model(path, receipt)
    assert root.done(path, "f") == receipt and root.done(path, "g") is None
    root.publish_bytes("images/images-00003.tar", b"shar")
    assert root.done(path, "f") is None
    root.remove("images/images-00003.tar")
    assert root.done(path, "f") is None


def test_tables_are_read_from_where_they_lie(root: Root) -> None:
    table = pa.table({"key": [f"{number:09d}" for number in range(1000)], "n": list(range(1000))})
    root.publish("captions.parquet", lambda stream: pq.write_table(table, stream))
    with root.open("captions.parquet") as stream:
        assert pq.read_table(stream) == table


def test_a_write_that_fails_leaves_what_was_there(root: Root) -> None:
    root.publish_bytes("a.bin", b"before")

    def break_off(stream: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        root.publish("a.bin", break_off)
    assert root.names("") == ["a.bin"] and root.read_bytes("a.bin") == b"before"


def test_lines_are_appended(root: Root) -> None:
    root.append_line("history.jsonl", "one")
    root.append_line("history.jsonl", "two")
    assert root.read_bytes("history.jsonl") == b"one\ntwo\n"


def test_what_another_machine_wrote_or_removed_is_seen_at_once(bucket: Bucket) -> None:
    root = Root(f"{bucket.uri}/root")
    assert root.names("images") == []
    for number in range(3):
        bucket.put(f"root/images/images-{number}.tar", b"x" * number)
        assert root.names("images") == [f"images-{there}.tar" for there in range(number + 1)]
        assert root.exists(f"images/images-{number}.tar") and root.size(f"images/images-{number}.tar") == number
    bucket.put("root/images/images-2.tar", b"longer than before")
    assert root.size("images/images-2.tar") == 18
    assert root.read_bytes("images/images-2.tar") == b"longer than before"


def test_full_names_of_files_can_be_given_to_other_programs(bucket: Bucket, tmp_path: Path) -> None:
    assert Root(f"{bucket.uri}/root/").path("download.html") == f"{bucket.uri}/root/download.html"
    assert Root(f"{tmp_path}/").path("download.html") == f"{tmp_path}/download.html"
    assert Root(str(tmp_path)).path("") == str(tmp_path) and Root("/").path("a") == "/a"


def test_a_bucket_that_is_not_there_is_named_and_never_made(bucket: Bucket) -> None:
    root = Root(f"{bucket.uri}-mistyped/root")
    for ask in (
        root.check_writable,
        lambda: root.names("datasets"),
        lambda: root.exists("a"),
        lambda: root.remove("a"),
        lambda: root.publish_bytes("a", b""),
    ):
        with pytest.raises(UserError, match=f"there is no bucket '{bucket.name}-mistyped'"):
            ask()


@pytest.mark.parametrize("which", ["wrong", "none"])
def test_credentials_that_do_not_do_are_bad_input(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    if which == "none":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another-key")
    root = Root(f"{bucket.uri}/root")
    expected = "refuses the credentials" if which == "wrong" else "no credentials"
    for ask in (
        root.check_writable,
        lambda: root.names("datasets"),
        lambda: root.exists("a"),
        lambda: root.read_bytes("a"),
    ):
        with pytest.raises(UserError, match=f"{expected} .* AWS_ACCESS_KEY_ID") as caught:
            ask()
        assert "a-secret-key" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://AKIA:topsecret@bucket/root", "s3://bucket/root?token=topsecret"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UserError, match="set them in the environment") as caught:
        Root(uri)
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(("uri", "says"), [("s3://", "names no bucket"), ("nosuch://a/b", "cannot be opened")])
def test_a_uri_that_is_none_is_bad_input(uri: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Root(uri)


def test_an_absent_driver_is_named_with_the_command_that_installs_it() -> None:
    program = """
import sys
sys.modules["s3fs"] = None
from tasks.errors import UserError
from tasks.storage.root import Root
try:
    Root("s3://bucket/root")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "no driver of s3:// is installed; run: pip install s3fs" in done.stdout


def test_a_server_that_goes_away_is_an_error_that_workers_can_hand_on(bucket: Bucket) -> None:
    root = Root(f"{bucket.uri}/root")
    root.publish_bytes("a.bin", b"x" * 1000)
    with root.open("a.bin") as stream:
        bucket.server.stop()
        try:
            for ask in (
                stream.read,
                lambda: root.names(""),
                lambda: root.exists("a.bin"),
                lambda: root.read_bytes("a.bin"),
                lambda: root.publish_bytes("a.bin", b"y"),
            ):
                with pytest.raises(StorageError, match=f"root {root.uri}: the store does not answer") as caught:
                    ask()
                assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        finally:
            bucket.server.start()
    assert root.read_bytes("a.bin") == b"x" * 1000


def test_a_login_in_what_a_driver_says_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some say which endpoint they could not reach, or which signed request failed."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("no answer from http://me:topsecret@minio:9000/bucket?X-Amz-Signature=topsecret&x=1")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.ls", fail)
    with pytest.raises(StorageError, match=r"no answer from http://minio:9000/bucket\?X-Amz-Signature=\.\.\.&x=1"):
        Root("memory://bucket/root").names("")
