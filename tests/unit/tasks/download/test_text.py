"""Text shards hold every passage in order; a stopped download goes on; bad input is named and leaves no corpus."""

from __future__ import annotations

import bz2
import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model.data.text_shards import TextManifest
from tasks.config import TextDatasetConfig
from tasks.download.text import TextResult, begun_texts, check_no_text, finished_text, make_text
from tasks.errors import StageError, UserError
from tasks.storage.locks import alone
from tasks.storage.root import Root
from tests.s3_server import Bucket

LONG = "\n".join(f"line {number} " + "word " * (number % 7) for number in range(50)) + "\n"


def of_files(*files: str, shard_passages: int = 8) -> TextDatasetConfig:
    return TextDatasetConfig(name="wiki", splits={"train": files}, shard_passages=shard_passages)


def lines(count: int, name: str = "line") -> list[str]:
    return [f"{name} {number} has some words" for number in range(count)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Root(str(tmp_path / "root"))


def manifest_of(root: Root) -> TextManifest:
    found = finished_text(root, "wiki", "train")
    assert found is not None
    return found


def passages_of(root: Root) -> list[str]:
    manifest = manifest_of(root)
    found = []
    for entry in manifest.shards:
        with root.open(f"datasets/wiki/train/text/{entry.name}") as stream:
            table = pq.read_table(stream)
        assert table.num_rows == entry.passages
        found += table["text"].to_pylist()
    assert all(entry.passages == manifest.shard_passages for entry in manifest.shards[:-1])
    return found


def contents(root: Root) -> dict[str, bytes]:
    folder = "datasets/wiki/train/text"
    return {
        name: root.read_bytes(f"{folder}/{name}") for name in root.names(folder) if not name.startswith("text-")
    } | {name: root.read_bytes(f"{folder}/{name}") for name in root.names(folder) if name.endswith(".parquet")}


def test_files_and_patterns_are_read_in_order_and_blank_lines_are_counted(root: Root) -> None:
    Path("more").mkdir()
    Path("a.txt").write_text("\ufeff" + "\n\n".join(lines(11, "a")) + "\r\n  \n")
    Path("more/2.txt.gz").write_bytes(gzip.compress("\n".join(lines(9, "c")).encode()))
    Path("more/10.txt.gz").write_bytes(gzip.compress(("\n" + "\n".join(lines(3, "b"))).encode()))
    Path("d.txt").write_bytes("\n".join(lines(4, "d ö")).encode("utf-16"))
    Path("e").write_bytes(bz2.compress(b" \t one  more \n\n\n"))
    result = make_text(root, of_files("a.txt", "more/*.txt.gz", "d.txt", "e"), "train")
    expected = lines(11, "a") + lines(3, "b") + lines(9, "c") + lines(4, "d ö") + ["one  more"]
    assert passages_of(root) == expected
    assert result == TextResult(ran=4, skipped=0, counts={"passages": 28, "blank": 10 + 1 + 1 + 2})


def test_a_second_run_does_nothing_and_a_lost_file_is_made_again_alone(root: Root, tmp_path: Path) -> None:
    Path("a.txt").write_text("\n".join(lines(40)))
    make_text(root, of_files("a.txt"), "train")
    first = contents(root)
    again = make_text(root, of_files("a.txt"), "train")
    assert (again.ran, again.skipped, again.counts) == (0, 5, {"passages": 40, "blank": 0})
    folder = tmp_path / "root/datasets/wiki/train/text"
    (folder / "text-00001.parquet").unlink()
    (folder / "text-00003.json").unlink()
    with (folder / "text-00004.parquet").open("ab") as stream:
        stream.write(b"x")
    assert finished_text(root, "wiki", "train") is None
    result = make_text(root, of_files("a.txt"), "train")
    assert (result.ran, result.skipped) == (3, 2)
    assert contents(root) == first
    assert make_text(root, of_files("a.txt"), "train", again=True).ran == 5
    assert contents(root) == first


@pytest.mark.parametrize("stop", [1, 8, 9, 20, 39])
def test_a_stopped_download_goes_on_behind_its_last_whole_shard(
    root: Root, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.txt").write_text("\n\n".join(lines(12, "a")) + "\n\n\n")
    Path("b.txt").write_text("\n" + "\n".join(lines(28, "b")) + "\n\n")
    config = of_files("a.txt", "b.txt")
    whole = Root(str(tmp_path / "whole"))
    make_text(whole, config, "train")
    from tasks.download import text

    kind = text.Passages

    class Stops(kind):
        count = 0

        def __next__(self) -> str:
            Stops.count += 1
            if Stops.count > 41 + stop:  # All are read once, to their end, to see whether they make a row.
                raise KeyboardInterrupt
            return super().__next__()

    with monkeypatch.context() as patch:
        patch.setattr(text, "Passages", Stops)
        with pytest.raises(KeyboardInterrupt):
            make_text(root, config, "train")
    assert finished_text(root, "wiki", "train") is None
    result = make_text(root, config, "train")
    assert (result.ran, result.skipped) == (5 - stop // 8, stop // 8)
    assert contents(root) == contents(whole)
    assert manifest_of(root).blank == 11 + 2 + 1 + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "text of wiki/train: bad.txt is empty; get it again"),
        (b" \n\n\t\n", "text of wiki/train: bad.txt has no line with text; get it again"),
        (b"good\n\ncaf\xe9\nmore\n", "text of wiki/train: bad.txt, line 3 is not UTF-8 text; if it is of Latin-1"),
        (b"good\n" + b"x" * (1 << 20) + b"y\n", r"bad.txt, line 2 is longer than 1,048,576 bytes; break it"),
        (b"PK\x03\x04", "bad.txt is a zip archive; unpack it"),
        (b"<!DOCTYPE html><html>", "bad.txt is a web page"),
        (gzip.compress(LONG.encode())[:-20], "cannot be read to the end: bad.txt"),
    ],
)
def test_bad_input_is_named_and_leaves_no_corpus(root: Root, content: bytes, message: str) -> None:
    Path("a.txt").write_text("\n".join(lines(100)))
    Path("bad.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        make_text(root, of_files("a.txt", "bad.txt"), "train")
    assert finished_text(root, "wiki", "train") is None
    # Once it is mended, nothing has to be accepted.
    Path("bad.txt").write_text("good now")
    make_text(root, of_files("a.txt", "bad.txt"), "train")
    assert passages_of(root) == [*lines(100), "good now"]


@pytest.mark.parametrize(
    ("text", "words"), [("one two three", 3), ("a, b. " * 15 + "c", 61), ("漢字" * 31 + "\nx", 63), ("\u200b\u200b", 0)]
)
def test_text_shorter_than_a_row_is_refused(root: Root, text: str, words: int) -> None:
    Path("a.txt").write_text(text)
    with pytest.raises(UserError, match=f"the text of wiki/train has {words} words, and a row of training takes 64"):
        make_text(root, of_files("a.txt"), "train")
    assert not root.exists("datasets/wiki/train/text/manifest.json")
    Path("a.txt").write_text(text + "," * (64 - words))
    assert make_text(root, of_files("a.txt"), "train").ran == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["absent.txt"], "text of wiki/train not found: absent.txt"),
        (["none-*.txt"], r"no file fits none-\*.txt"),
        (["a.txt", "a.*"], "given twice"),
        (["s3"], "text of wiki/train cannot be read: s3"),
        (["nowhere://x/y"], "text of wiki/train cannot be read: nowhere://x/y"),
    ],
)
def test_files_that_cannot_be_found_are_named(root: Root, files: list[str], message: str) -> None:
    Path("a.txt").write_text(LONG)
    Path("s3").mkdir()
    with pytest.raises(UserError, match=message):
        make_text(root, of_files(*files), "train")
    assert not root.exists("datasets")


def test_a_name_with_brackets_is_a_file_where_there_is_one(root: Root) -> None:
    Path("a[1].txt").write_text(LONG)
    assert make_text(root, of_files("a[1].txt"), "train").counts["passages"] == 50


def test_other_text_under_the_same_name_is_refused_until_accepted(root: Root) -> None:
    Path("a.txt").write_text("\n".join(lines(40)))
    make_text(root, of_files("a.txt"), "train")
    Path("moved.txt").write_text("\n".join(lines(40)))
    assert make_text(root, of_files("moved.txt"), "train").ran == 0  # The same, elsewhere.
    with pytest.raises(UserError, match="8 passages a shard then, 9 now"):
        make_text(root, of_files("a.txt", shard_passages=9), "train")
    with pytest.raises(UserError, match="1 files then, 2 now"):
        make_text(root, of_files("a.txt", "moved.txt"), "train")
    Path("a.txt").write_text("\n".join(lines(20, "other")))
    with pytest.raises(UserError, match=r"file 1 was a.txt, and a.txt now has other content"):
        make_text(root, of_files("a.txt"), "train")
    assert passages_of(root) == lines(40)
    assert make_text(root, of_files("a.txt"), "train", accept_changes=True).ran == 3
    assert passages_of(root) == lines(20, "other")
    names = root.names("datasets/wiki/train/text")
    assert names == ["manifest.json", *sorted(f"text-0000{n}.{end}" for n in range(3) for end in ("json", "parquet"))]


def test_text_and_images_have_names_of_their_own(root: Root) -> None:
    Path("a.txt").write_text(LONG)
    root.publish_bytes("datasets/wiki/train/download.json", b"{}")
    with pytest.raises(UserError, match=r"wiki/train under .* has images already"):
        make_text(root, of_files("a.txt"), "train")
    root.remove("datasets/wiki/train/download.json")
    check_no_text(root, "wiki", "train")
    make_text(root, of_files("a.txt"), "train")
    with pytest.raises(UserError, match=r"wiki/train under .* is text already"):
        check_no_text(root, "wiki", "train")


def test_two_commands_do_not_make_one_corpus(root: Root) -> None:
    Path("a.txt").write_text(LONG)
    with alone(root, "text-wiki-train", "at it"), pytest.raises(StageError, match="another process is making the text"):
        make_text(root, of_files("a.txt"), "train")


@pytest.mark.slow("a server of object storage")
def test_files_and_root_may_lie_on_an_object_store(bucket: Bucket, root: Root) -> None:
    where = bucket.uri
    for name, part in (("1.txt", lines(11, "a")), ("2.txt", lines(12, "b"))):
        bucket.put(f"text/{name}", "\n".join(part).encode())
    stored = Root(f"{where}/root")
    result = make_text(stored, of_files(f"{where}/text/*.txt"), "train")
    assert (result.ran, passages_of(stored)) == (3, lines(11, "a") + lines(12, "b"))
    assert make_text(stored, of_files(f"{where}/text/*.txt"), "train").ran == 0
    ((name, begun),) = begun_texts(stored).items()
    assert name == ("wiki", "train") and [file.uri for file in begun.files] == [
        f"{where}/text/1.txt",
        f"{where}/text/2.txt",
    ]


_PEAK = """
import re, sys
from pathlib import Path
from tasks.config import TextDatasetConfig
from tasks.download.text import make_text
from tasks.storage.root import Root
make_text(Root(sys.argv[2]), TextDatasetConfig(name="wiki", splits={"train": (sys.argv[1],)}), "train")
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow("processes that read long files")
def test_memory_does_not_grow_with_the_text(root: Root) -> None:
    peaks = []
    for number, megabytes in enumerate((24, 240)):
        with Path("a.txt").open("w") as stream:
            for line in range(megabytes * 1000):
                stream.write(f"{line} " + "word " * 199 + "\n")
        command = [sys.executable, "-c", _PEAK, str(Path("a.txt").resolve()), f"{root.uri}-{number}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[4], check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1000)
    assert peaks[1] - peaks[0] < 50, peaks  # MB, of 216 MB more text
