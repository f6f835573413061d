"""Image shards that somebody else has written, or a broken disk: every one is a ShardError, and costs no memory."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_extraction.samples.images import read_image_shard
from feature_extraction.samples.tars import ShardError, find_in_tar, read_tar, write_tar

END = bytes(10_240)
MEMBERS = [("1.jpg", b"one"), ("1.json", b"{}"), ("2.jpg", b"two")]


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, content: bytes) -> bytes:
    return header(name, len(content)) + content + bytes(-len(content) % 512)


HOSTILE = {
    "a size of 4 EiB": header("1.jpg", 2**62),
    "a size of 1 TiB": header("1.jpg", 2**40),
    "a long name of 1 TiB": header("1.jpg", 2**40, tarfile.GNUTYPE_LONGNAME),
    "an extended header of 1 TiB": header("1.jpg", 2**40, tarfile.XHDTYPE),
    "a link out of the folder": header("1.jpg", 0, tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link to nothing": header("1.jpg", 0, tarfile.LNKTYPE, "nothing"),
    "a link to another member": member("2.jpg", b"two") + header("1.jpg", 0, tarfile.SYMTYPE, "2.jpg"),
    "a named pipe": header("1.jpg", 0, tarfile.FIFOTYPE),
    "a device": header("1.jpg", 0, tarfile.CHRTYPE),
    "a folder": header("1.jpg", 0, tarfile.DIRTYPE),
}
NAMES = {
    "an absolute name": member("/etc/1.jpg", b"one"),
    "a name that climbs": member("../1.jpg", b"one"),
    "a name with a folder": member("a/1.jpg", b"one"),
    "a name without a key": member(".jpg", b"one"),
    "a member twice": 2 * member("1.jpg", b"one"),
}


@pytest.fixture
def shard(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "images-00000.tar"
    path.write_bytes({**HOSTILE, **NAMES}[request.param] + END)
    return path


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """What a header names is not asked for: 1 TiB would be had from no machine, but with swap and luck."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**39, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("shard", [*HOSTILE, *NAMES], indirect=True)
def test_an_image_shard_is_refused(shard: Path) -> None:
    with shard.open("rb") as stream, pytest.raises(ShardError, match=r"images-00000\.tar: .*write this shard again"):
        list(read_image_shard(stream, shard.name))


@pytest.mark.parametrize("shard", HOSTILE, indirect=True)
def test_a_single_picture_is_refused(shard: Path) -> None:
    with shard.open("rb") as stream, pytest.raises(ShardError, match=r"images-00000\.tar: .*write this shard again"):
        list(find_in_tar(stream, shard.name, {"1.jpg"}))


def test_members_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as stream:
        write_tar(stream, MEMBERS)
    with path.open("rb") as stream:
        assert list(read_tar(stream, "a.tar")) == MEMBERS
    with path.open("rb") as stream:
        assert list(find_in_tar(stream, "a.tar", {"2.jpg", "1.jpg", "3.jpg"})) == [MEMBERS[0], MEMBERS[2]]
    with path.open("rb") as stream:
        assert list(find_in_tar(stream, "a.tar", set())) == []
