"""Pictures on a disk end as the same outcomes as pictures on the web."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fsspec
import pytest

from tasks.download.local_pictures import PictureFolder
from tasks.download.web.attempt import FetchError
from tasks.records import Outcome


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "val2014").mkdir(parents=True)
    (folder / "val2014" / "1.jpg").write_bytes(b"a picture")
    return folder


def refused(folder: Path, name: str, max_bytes: int = 100) -> FetchError:
    with pytest.raises(FetchError) as error:
        PictureFolder(str(folder), max_bytes).attempt(name, 5.0)
    assert not error.value.transient
    return error.value


def test_picture_is_read_whole_and_has_no_status(pictures: Path) -> None:
    answer = PictureFolder(f"{pictures}/", max_bytes=9).attempt("val2014/1.jpg", 5.0)
    assert (answer.body, answer.status) == (b"a picture", None)


def test_pictures_of_any_file_system() -> None:
    with fsspec.open("memory://local-pictures/1.jpg", "wb") as stream:
        stream.write(b"a picture")
    folder = PictureFolder("memory://local-pictures", max_bytes=9)
    assert folder.attempt("1.jpg", 5.0).body == b"a picture"
    with pytest.raises(FetchError) as error:
        folder.attempt("2.jpg", 5.0)
    assert error.value.outcome is Outcome.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("2.jpg", Outcome.NOT_FOUND),
        ("val2014/1.jpg/2.jpg", Outcome.NOT_FOUND),
        ("x" * 5000, Outcome.NOT_FOUND),
        ("loop.jpg", Outcome.NOT_FOUND),
        ("dangling.jpg", Outcome.NOT_FOUND),
        ("val2014", Outcome.NOT_AN_IMAGE),
        ("empty.jpg", Outcome.NOT_AN_IMAGE),
        ("pipe.jpg", Outcome.NOT_AN_IMAGE),
        ("large.jpg", Outcome.TOO_LARGE),
        ("../outside.jpg", Outcome.BAD_URL),
        ("/etc/passwd", Outcome.BAD_URL),
    ],
)
def test_trouble_with_one_picture_is_an_outcome(pictures: Path, name: str, outcome: Outcome) -> None:
    (pictures.parent / "outside.jpg").write_bytes(b"a picture")
    (pictures / "empty.jpg").write_bytes(b"")
    (pictures / "large.jpg").write_bytes(bytes(101))
    (pictures / "loop.jpg").symlink_to("loop.jpg")
    (pictures / "dangling.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(pictures / "pipe.jpg")
    assert refused(pictures, name).outcome is outcome


def test_link_may_lead_out_of_the_folder(pictures: Path) -> None:
    (pictures.parent / "outside.jpg").write_bytes(b"elsewhere")
    (pictures / "link.jpg").symlink_to("../outside.jpg")
    assert PictureFolder(str(pictures), max_bytes=9).attempt("link.jpg", 5.0).body == b"elsewhere"


def test_picture_that_grew_since_its_size_was_asked_is_too_large(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.info", lambda *_: {"type": "file", "size": 1})
    assert refused(pictures, "val2014/1.jpg", max_bytes=8).outcome is Outcome.TOO_LARGE


@pytest.mark.parametrize(("number", "outcome"), [(errno.EACCES, Outcome.FORBIDDEN), (errno.EIO, None)])
def test_permission_is_data_and_a_broken_disk_is_an_error(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, number: int, outcome: Outcome | None
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.info", fail)
    if outcome is not None:
        assert refused(pictures, "val2014/1.jpg").outcome is outcome
        return
    with pytest.raises(OSError, match="Input/output error"):
        PictureFolder(str(pictures), max_bytes=9).attempt("val2014/1.jpg", 5.0)
