"""Every form of caption rows becomes the same stream; nothing is dropped, and nothing swallows its neighbours."""

from __future__ import annotations

import bz2
import csv
import gzip
import http.server
import io
import json
import lzma
import threading
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.config import RowsConfig
from tasks.errors import UserError
from tasks.rows import input as row_input
from tasks.rows.read import (
    check_rows,
    file_name_problem,
    is_file_name,
    read_rows,
    resolve_rows,
    rows_identity,
    web_url_problem,
)

DATA = Path(__file__).parents[4] / "../shared/data"
WHERE = "caption rows of tiny/train"
Row = tuple[str, str, str]
DOG, CAT = ("a dog", "http://a.example/1", ""), ("a cat", "http://a.example/2", "")
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the folder of real data is not beside the checkout")


def rows_of(path: Path | str, split: str = "train", **options: Any) -> list[Row]:
    """Caption, url and outcome of every row."""
    source = RowsConfig(rows=str(path), **options)
    rows = list(read_rows(resolve_rows(source, split, WHERE), WHERE))
    assert all(bool(detail) == bool(outcome) for _, _, outcome, detail in rows)
    return [(caption, url, outcome) for caption, url, outcome, _ in rows]


def details_of(path: Path | str, split: str = "train", **options: Any) -> list[str]:
    """Why rows cannot be used, without those that can."""
    source = RowsConfig(rows=str(path), **options)
    return [detail for *_, detail in read_rows(resolve_rows(source, split, WHERE), WHERE) if detail]


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def in_memory(content: bytes, name: str) -> str:
    with fsspec.open(f"memory://rows-of-tests/{name}", "wb") as stream:
        stream.write(content)
    return f"memory://rows-of-tests/{name}"


def pictures(folder: Path) -> str:
    (folder / "pictures").mkdir(exist_ok=True)
    return str(folder / "pictures")


# --- tsv ------------------------------------------------------------------------------------------------------------


def test_url_first_rows_are_split_at_their_first_tab(tmp_path: Path) -> None:
    path = write(tmp_path, "cc12m.tsv", "http://a.example/1\ta dog\nhttp://a.example/2\tone\ttwo\nno tab\n")
    assert rows_of(path, url_first=True) == [
        DOG,
        ("one\ttwo", "http://a.example/2", ""),
        ("no tab", "", "bad_row"),
    ]


def test_swapped_columns_are_told_apart_from_bad_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other way round in .*rows.tsv; set url_first"):
        rows_of(write(tmp_path, "rows.tsv", "http://a.example/1\ta dog\n"))
    with pytest.raises(UserError, match=r"other way round .*; unset url_first"):
        rows_of(write(tmp_path, "rows.tsv", "a dog\thttp://a.example/1\n"), url_first=True)


def test_rows_without_one_usable_url_are_refused_naming_the_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the first is 'ftp://a.example/1'; expected caption TAB url"):
        rows_of(write(tmp_path, "rows.tsv", "no tab\na dog\tftp://a.example/1\na cat\t1.jpg\n"))


def test_row_over_the_limit_is_cut_and_bad_and_its_neighbours_stay(tmp_path: Path) -> None:
    long = b"\xc3\xa9" * row_input.ROW_LIMIT + b"\thttp://a.example/3"
    path = write(tmp_path, "rows.tsv", b"a dog\thttp://a.example/1\n" + long + b"\r\na cat\thttp://a.example/2\n")
    first, cut, last = rows_of(path)
    assert (first, last) == (DOG, CAT)
    assert cut == ("é" * (row_input.ROW_LIMIT // 2), "", "bad_row")


def test_only_a_newline_ends_a_row(tmp_path: Path) -> None:
    odd = "a\u2028b\x0bc\x0cd\x85e\rf\x1cg"
    assert rows_of(write(tmp_path, "rows.tsv", f"{odd}\thttp://a.example/1")) == [(odd, "http://a.example/1", "")]


def slow_tsv(content: bytes) -> list[Row]:
    """The rows of a TSV, as plainly as it can be said."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    rows = []
    for line in lines:
        line = line.removesuffix(b"\r")
        try:
            *caption, url = line.decode().split("\t")
        except UnicodeDecodeError:
            rows.append((line.decode(errors="replace"), "", "bad_row"))
            continue
        if not caption:
            rows.append((url, "", "bad_row"))
            continue
        text = "\t".join(caption)
        url = url.strip()
        is_url = url.startswith("http://a.example") and not any(character < " " for character in url)
        rows.append((text, url, "bad_row" if not text.strip() else "" if is_url else "bad_url"))
    return rows


PIECES = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\r", b"\t", b'"', b'""', b",", b"\xef\xbb\xbf", "\u2028\x0b\x0c\x85".encode()]),
    st.sampled_from([b"a dog", b"http://a.example/1", b"a dog\thttp://a.example/1", b"x" * 70]),
)


OTHER_FILES = (
    *row_input._NO_TEXT,
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",
    b"\xff\xfe",
    b"\xfe\xff",
    b"<",
)


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=20).map(b"".join), st.sampled_from([1, 7, 1 << 20]))
def test_tsv_reader_equals_its_slow_twin_on_any_bytes_however_they_arrive(content: bytes, chunk: int) -> None:
    assume(not content.startswith(OTHER_FILES))  # They are tested below.
    content += b"\nanchor\thttp://a.example/9\n"
    uri = in_memory(content, "any.tsv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_input, "_CHUNK", chunk)
        assert rows_of(uri) == slow_tsv(content)


# --- csv ------------------------------------------------------------------------------------------------------------


def test_csv_columns_are_found_by_name_and_quoting_is_undone(tmp_path: Path) -> None:
    text = '\ufeffid,url,"alt text"\r\n7,http://a.example/1,"a ""big"", dog\nlying"\r\n8,http://a.example/2,a "cat"\r\n'
    path = write(tmp_path, "rows.csv.gz", gzip.compress(text.encode()))
    assert rows_of(path, caption_column="alt text") == [
        ('a "big", dog\nlying', "http://a.example/1", ""),
        ('a "cat"', "http://a.example/2", ""),
    ]


def test_csv_rows_that_do_not_fit_are_bad_rows_and_their_neighbours_stay(tmp_path: Path) -> None:
    content = b"caption,url\na dog,http://a.example/1\none,two,three\n\ncaf\xe9,http://a.example/3\n"
    content += b'"one"two,http://a.example/4\n,http://a.example/5\nb,ftp://x\na cat,http://a.example/2\n'
    assert rows_of(write(tmp_path, "rows.csv", content)) == [
        DOG,
        ("one,two,three", "", "bad_row"),
        ("", "", "bad_row"),
        ("caf\ufffd,http://a.example/3", "", "bad_row"),
        ('"one"two,http://a.example/4', "", "bad_row"),
        ("", "http://a.example/5", "bad_row"),
        ("b", "ftp://x", "bad_url"),
        CAT,
    ]


@pytest.mark.parametrize(
    "rest",
    ["", "a cat,http://a.example/2\n" * 3, 'a cat,http://a.example/2\n"b",http://b\n', "a cat,http://b\n" * 20_000],
)
def test_unclosed_quote_is_refused_with_the_line_it_begins_in(tmp_path: Path, rest: str) -> None:
    path = write(tmp_path, "rows.csv", f'caption,url\na dog,http://a.example/1\n"a bird,http://b\n{rest}')
    with pytest.raises(UserError, match=r"begins in line 3 of .*rows.csv has a quote that is not closed"):
        rows_of(path)


def test_csv_line_too_long_to_follow_its_quoting_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.csv", f'caption,url\n{"a," * row_input.ROW_LIMIT}"\na cat,http://a.example/2\n')
    with pytest.raises(UserError, match=r"line 2 of .*rows.csv is longer than 1,048,576 bytes"):
        rows_of(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("alt,url", "no row that names a column 'caption', its columns are 'alt', 'url'; set caption_column"),
        ("caption,url,url", "2 columns named 'url'"),
    ],
)
def test_missing_or_repeated_column_is_named(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows_of(write(tmp_path, "rows.csv", f"{header}\na,b,c\n"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=8), st.text('ab",\r\n\u2028 ', max_size=8)), max_size=8))
def test_what_csv_writes_is_read_back(pairs: list[tuple[str, str]]) -> None:
    pairs = [("anchor", "http://a.example/9"), *pairs]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("caption", "url"), *pairs])
    uri = in_memory(buffer.getvalue().encode(), "any.csv")
    rows = rows_of(uri)
    assert [(caption, url) for caption, url, _ in rows] == [(caption, url.strip()) for caption, url in pairs]


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=20).map(b"".join))
def test_every_line_of_any_csv_is_accounted_for_or_the_file_refused(content: bytes) -> None:
    uri = in_memory(b"caption,url\nanchor,http://a.example/9\n" + content, "any.csv")
    lines = len(content.split(b"\n")) - (content.endswith(b"\n") or not content)
    try:
        rows = rows_of(uri)
    except UserError as error:
        assert "quote that is not closed" in str(error)
        return
    breaks_inside = sum(caption.count("\n") + url.count("\n") for caption, url, _ in rows)
    assert rows[0] == ("anchor", "http://a.example/9", "")
    if b'"' not in content:
        assert len(rows) - 1 == lines
    assert len(rows) - 1 + breaks_inside <= lines


# --- parquet --------------------------------------------------------------------------------------------------------


def test_parquet_nulls_are_bad_rows_and_bad_urls(tmp_path: Path) -> None:
    captions = ["a dog", None, "a bird", "a cat"]
    urls = ["http://a.example/1", "http://a.example/3", None, "http://a.example/2"]
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        table = pa.table({"url": pa.array(urls, pa.string()), "n": [1, 2, 3, 4], "caption": pa.array(captions, kind)})
        pq.write_table(table, tmp_path / "rows.parquet", row_group_size=3)
        assert rows_of(tmp_path / "rows.parquet") == [
            DOG,
            ("", "http://a.example/3", "bad_row"),
            ("a bird", "", "bad_url"),
            CAT,
        ]


def test_parquet_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    captions = pa.array([b"caf\xe9", b"a dog"]).cast(pa.binary()).view(pa.string())
    table = pa.table({"caption": captions, "url": ["http://a.example/3", "http://a.example/1"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert rows_of(tmp_path / "rows.parquet") == [("caf\ufffd", "", "bad_row"), DOG]


def test_parquet_columns_are_checked_first(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"TEXT": ["a dog"], "url": [7]}), path)
    with pytest.raises(UserError, match="names a column 'caption', its columns are 'TEXT', 'url'"):
        rows_of(path)
    with pytest.raises(UserError, match=r"column 'url' of .* is int64, not text"):
        rows_of(path, caption_column="TEXT")
    with pytest.raises(UserError, match="give a whole Parquet file"):
        rows_of(write(tmp_path, "text.parquet", "a dog\thttp://a.example/1\n"))


# --- pictures on disk -----------------------------------------------------------------------------------------------

FLICKR = {
    "images": [
        {"split": "train", "filename": "1.jpg", "imgid": 0, "sentences": [{"raw": "a dog", "tokens": ["a", "dog"]}]},
        {"split": "test", "filename": "2.jpg", "imgid": 1, "sentences": [{"raw": "a cat"}, {"raw": "one cat"}]},
        {"split": "restval", "filename": "3.jpg", "sentences": [{"raw": "a bird"}]},
    ],
    "dataset": "flickr30k",
}


def test_karpathy_rows_are_those_of_the_split(tmp_path: Path) -> None:
    path, images = write(tmp_path, "dataset_flickr30k.json", json.dumps(FLICKR)), pictures(tmp_path)
    assert rows_of(path, "test", images=images) == [("a cat", "2.jpg", ""), ("one cat", "2.jpg", "")]
    assert rows_of(path, "train", images=images) == [("a dog", "1.jpg", ""), ("a bird", "3.jpg", "")]
    assert rows_of(path, "train", images=images, select=("train",)) == [("a dog", "1.jpg", "")]
    with pytest.raises(UserError, match="is of val; it has train, test, restval: name some of them in select"):
        rows_of(path, "val", images=images)


def test_karpathy_file_of_coco_names_the_folder_too(tmp_path: Path) -> None:
    image = {"filepath": "val2014", "filename": "9.jpg", "split": "val", "sentences": [{"raw": "a dog"}], "cocoid": 9}
    path = write(tmp_path, "dataset_coco.json.gz", gzip.compress(json.dumps({"images": [image]}).encode()))
    assert rows_of(path, "val", images=pictures(tmp_path)) == [("a dog", "val2014/9.jpg", "")]


def test_coco_captions_of_a_picture_stand_together(tmp_path: Path) -> None:
    content = {
        "info": {"description": 'has no "sentences" key'},
        "images": [{"id": 5, "file_name": "5.jpg"}, {"id": 3, "file_name": "3.jpg"}, {"id": 4, "file_name": "4.jpg"}],
        "annotations": [
            {"image_id": 3, "caption": "c", "id": 1},
            {"image_id": 9, "caption": "orphan", "id": 2},
            {"image_id": 5, "caption": "a", "id": 3},
            {"image_id": 3, "caption": "d", "id": 4},
            {"image_id": 5, "caption": "b", "id": 5},
        ],
    }
    assert rows_of(write(tmp_path, "captions.json", json.dumps(content)), images=pictures(tmp_path)) == [
        ("a", "5.jpg", ""),
        ("b", "5.jpg", ""),
        ("c", "3.jpg", ""),
        ("d", "3.jpg", ""),
        ("orphan", "", "bad_row"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "neither the sentences of Karpathy's json nor the annotations of COCO's"),
        ('{"images": [{"sentences": [', "is not of Karpathy's form"),
        ('{"images": [], "annotations": [{"image_id": 1}]}', r"\(the first: its caption is null\); expected COCO"),
        (
            '{"images": [{"filename": "1.jpg", "split": "train", "sentences": [{}]}]}',
            r"\(the first: its caption is null\); exp",
        ),
        ('{"images": [{"filename": "1.jpg", "split": "train", "sentences": ["a"]}]}', r"images.0.sentences.0"),
        ('{"images": {"sentences": []}}', r"images: Input should be a valid"),
    ],
)
def test_json_of_another_kind_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows_of(write(tmp_path, "rows.json", content), images=pictures(tmp_path))


def test_token_rows_lose_their_number_and_keep_their_tabs(tmp_path: Path) -> None:
    text = "1.jpg#0\ta dog\n1.jpg#1\tone\ttwo\nno tab\n2.jpg\ta cat\nsharp#x.jpg#12\ta bird\n"
    path = write(tmp_path, "captions.token.txt", text)
    assert rows_of(path, images=pictures(tmp_path)) == [
        ("a dog", "1.jpg", ""),
        ("one\ttwo", "1.jpg", ""),
        ("no tab", "", "bad_row"),
        ("a cat", "2.jpg", ""),
        ("a bird", "sharp#x.jpg", ""),
    ]


def test_names_choose_the_rows_of_a_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "captions.token.txt", "1.jpg#0\ta dog\n2.jpg#0\ta cat\n1.jpg#1\tone dog\n")
    names = write(tmp_path, "test.txt", "1.jpg\r\n\n7.jpg\n")
    rows = rows_of(path, images=pictures(tmp_path), names=str(names))
    assert rows == [("a dog", "1.jpg", ""), ("one dog", "1.jpg", "")]
    assert "1 names of" in caplog.text and "first 7.jpg" in caplog.text
    names.write_text("8.jpg\n")
    with pytest.raises(UserError, match=r"is of a picture that .*test.txt lists"):
        rows_of(path, images=pictures(tmp_path), names=str(names))


@pytest.mark.parametrize("column", ["file", "file_name", "filename", "image", "url"])
def test_table_of_a_folder_names_its_files_in_a_column_of_a_usual_name(tmp_path: Path, column: str) -> None:
    """Any number of captions a picture, and nothing to set."""
    rows = [("1.jpg", "a dog"), ("2.jpg", "a cat"), ("1.jpg", "one dog"), *[("3.jpg", f"bird {n}") for n in range(7)]]
    text = "".join(f"{file},{caption}\n" for file, caption in [(column, "caption"), *rows])
    expected = [(caption, file, "") for file, caption in rows]
    assert rows_of(write(tmp_path, "rows.csv", text), images=pictures(tmp_path)) == expected
    table = pa.table({column: [file for file, _ in rows], "caption": [caption for _, caption in rows]})
    pq.write_table(table, tmp_path / "rows.parquet")
    assert rows_of(tmp_path / "rows.parquet", images=pictures(tmp_path)) == expected


def test_which_column_holds_the_files_is_asked_for_where_it_cannot_be_told(tmp_path: Path) -> None:
    both = write(tmp_path, "both.csv", "image,caption,file\n7,a dog,1.jpg\n")
    with pytest.raises(UserError, match="has the columns file and image; set url_column to the one of file names"):
        rows_of(both, images=pictures(tmp_path))
    assert rows_of(both, images=pictures(tmp_path), url_column="file") == [("a dog", "1.jpg", "")]
    other = write(tmp_path, "other.csv", "picture,caption\n1.jpg,a dog\n")
    with pytest.raises(UserError, match="no row that names a column 'file', its columns are 'picture', 'caption'"):
        rows_of(other, images=pictures(tmp_path))
    web = write(tmp_path, "web.csv", "file,caption\nhttp://a.example/1,a dog\n")
    with pytest.raises(UserError, match="no row that names a column 'url'"):
        rows_of(web)


@pytest.mark.parametrize("url_first", [False, True])
def test_swapped_caption_and_file_name_are_told_by_the_folder(tmp_path: Path, url_first: bool) -> None:
    images = pictures(tmp_path)
    write(Path(images), "2.jpg", b"any")
    pairs = [("1.jpg", "a dog"), ("2.jpg", "a cat"), ("..", "")]
    lines = "".join("\t".join(pair if not url_first else pair[::-1]) + "\n" for pair in pairs)
    source = RowsConfig(rows=str(write(tmp_path, "rows.tsv", lines)), images=images, url_first=url_first)
    advice = "unset url_first" if url_first else "set url_first"
    with pytest.raises(UserError, match=rf"caption and file name are the other way round in .*rows.tsv; {advice}"):
        check_rows(source, "train", WHERE)
    check_rows(source.model_copy(update={"url_first": not url_first}), "train", WHERE)


@pytest.mark.parametrize(
    ("name", "is_usable"),
    [
        ("a.jpg", True),
        ("train2014/a b.jpg", True),
        ("..jpg", True),
        ("./a.jpg", True),
        ("", False),
        ("/etc/passwd", False),
        ("../a.jpg", False),
        ("a/../../b.jpg", False),
        ("a\\b.jpg", False),
        ("a\0.jpg", False),
        ("http://a.example/1.jpg", False),
    ],
)
def test_only_names_below_the_folder_are_usable(tmp_path: Path, name: str, is_usable: bool) -> None:
    assert is_file_name(name) is is_usable
    path = write(tmp_path, "rows.tsv", f"anchor\tanchor.jpg\na dog\t{name}\n")
    assert rows_of(path, images=pictures(tmp_path))[1] == ("a dog", name, "" if is_usable else "bad_url")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rows.dat", {}, "set form to one of tsv, csv, parquet, karpathy, coco, tokens"),
        ("rows.token.txt", {}, "form tokens names pictures on disk; set images"),
        ("rows.tsv", {"form": "coco"}, "form coco names pictures on disk"),
        ("rows.tsv", {"names": "x"}, "names lists pictures on disk"),
        ("rows.tsv", {"select": ("a",)}, "select is for form karpathy"),
        ("rows.csv", {"url_first": True}, "url_first is for form tsv"),
        ("rows.tsv", {"images": "no-such-folder"}, "there is no folder no-such-folder"),
        ("absent.tsv", {}, "not found: .*absent.tsv; give the path or URI of a file, expected caption TAB url"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    for there in ("rows.dat", "rows.token.txt", "rows.tsv", "rows.csv"):
        write(tmp_path, there, "a dog\thttp://a.example/1\n")
    with pytest.raises(UserError, match=message):
        check_rows(RowsConfig(rows=str(tmp_path / name), **options), "train", WHERE)


# --- odd files ------------------------------------------------------------------------------------------------------

TSV = "a dog\thttp://a.example/1\na cat\thttp://a.example/2\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("form", ["tsv", "csv", "json"])
def test_rows_in_wide_encodings_are_read(tmp_path: Path, encoding: str, form: str) -> None:
    caption = "写真の犬 😀 é"
    images = pictures(tmp_path)
    text = {
        "tsv": f"{caption}\t1.jpg\r\na cat\t2.jpg\r\n",
        "csv": f'caption,file\r\n"{caption}",1.jpg\r\na cat,2.jpg\r\n',
        "json": json.dumps(
            {"images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
             "annotations": [{"image_id": 1, "caption": caption}, {"image_id": 2, "caption": "a cat"}]},
            ensure_ascii=False,
        ),
    }[form]  # fmt: skip
    path = write(tmp_path, f"rows.{form}", text.encode(encoding))
    assert rows_of(path, images=images) == [(caption, "1.jpg", ""), ("a cat", "2.jpg", "")]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_half_a_character_of_utf_16_is_one_bad_row(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_input, "_CHUNK", chunk)
    lone, line = "\ud83d\thttp://a.example/3\n", "写" * 2000 + "\thttp://a.example/3\n"
    content = (TSV + lone + line + TSV + "cut\thttp://a.example/4").encode("utf-16", "surrogatepass")
    rows = rows_of(write(tmp_path, "rows.tsv", content[:-1]))
    assert [outcome for *_, outcome in rows] == ["", "", "bad_row", "", "", "", "bad_row"]
    assert rows[3][0] == "写" * 2000


PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": None}


@pytest.mark.parametrize("packer", PACKERS)
def test_what_rows_are_packed_with_is_told_by_what_they_hold(tmp_path: Path, packer: str) -> None:
    def packed(text: str) -> bytes:
        pack = PACKERS[packer] or (lambda content: pa.compress(content, codec="zstd", asbytes=True))
        return pack(text.encode())

    suffix = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}[packer]
    assert rows_of(write(tmp_path, "rows.tsv", packed(TSV))) == [DOG, CAT]
    assert rows_of(write(tmp_path, f"rows.tsv{suffix}", packed(TSV) + packed(TSV))) == [DOG, CAT] * 2
    assert rows_of(write(tmp_path, "rows.tsv", packed(TSV * 20_000))) == [DOG, CAT] * 20_000
    with pytest.raises(UserError, match=r"cannot be read to the end: .*rows.tsv .*; fetch the file again"):
        rows_of(write(tmp_path, "rows.tsv", packed("".join(f"{n}\thttp://a.example/{n}\n" for n in range(9999)))[:-9]))


def test_rows_that_a_browser_unpacked_and_left_named_gz_are_read(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path, "rows.tsv.gz", TSV)) == [DOG, CAT]
    accents = "é" * 5000 + "\thttp://a.example/3\n"
    assert len(rows_of(write(tmp_path, "rows.tsv.gz", " " + accents + TSV))) == 3
    with pytest.raises(UserError, match="Not a gzipped file"):
        rows_of(write(tmp_path, "rows.tsv.gz", b"\0" * 100 + TSV.encode()))


def test_json_in_an_encoding_of_one_byte_says_so(tmp_path: Path) -> None:
    image = {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "café"}]}
    content = json.dumps({"images": [image]}, ensure_ascii=False).encode("latin-1")
    with pytest.raises(
        UserError, match=r"karpathy\.json is no UTF-8 text; if it is of Latin-1 or the like, convert it"
    ):
        rows_of(write(tmp_path, "karpathy.json", content), images=pictures(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + TSV.encode(), "is a zip archive; unpack it"),
        (b"PAR1" + TSV.encode(), "is a Parquet file; set form to parquet"),
        (b"\n <!DOCTYPE html>\n" + TSV.encode(), "is a web page; give the address of the file itself"),
        (b"SQLite format 3\0", "is an SQLite database; export its rows"),
    ],
)
def test_files_that_hold_no_rows_of_text_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    for name in ("rows.tsv", "rows.csv"):
        with pytest.raises(UserError, match=message):
            rows_of(write(tmp_path, name, content))


def test_a_server_that_cannot_go_back_sends_packed_rows(tmp_path: Path) -> None:
    content = gzip.compress(TSV.encode())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert rows_of(f"http://127.0.0.1:{server.server_port}/rows.tsv?key=1") == [DOG, CAT]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_the_first_row_tells_what_parts_the_columns(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ("n", "url", "caption"),
        ("1", "http://a.example/1", f"one{delimiter} two"),
        ("2", "http://a.example/2", "é;,"),
    ]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter).writerows(rows)
    assert rows_of(write(tmp_path, "rows.csv", buffer.getvalue())) == [(row[2], row[1], "") for row in rows[1:]]


def test_excels_line_of_the_separator_is_no_row(tmp_path: Path) -> None:
    for line in ("sep=;\r\n", '"sep=\t"\n'):
        delimiter = ";" if ";" in line else "\t"
        text = f"{line}caption;url\na dog;http://a.example/1\n".replace(";", delimiter)
        assert rows_of(write(tmp_path, "rows.csv", text.encode("utf-16"))) == [DOG]


def test_commas_part_columns_where_anything_would(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path, "rows.csv", "url,caption;url,caption\nhttp://a.example/1,x,a dog\n")) == [DOG]
    with pytest.raises(UserError, match="its columns are 'text;link'; set caption_column"):
        rows_of(write(tmp_path, "rows.csv", "text;link\na;b\n"))


def test_a_csv_field_is_as_long_as_a_row_may_be(tmp_path: Path) -> None:
    long = "long " * 100_000
    for text in (f"{long},http://a.example/3", f'"{long}\n{long}",http://a.example/3'):
        content = f"caption,url\na dog,http://a.example/1\n{text}\na cat,http://a.example/2\n"
        rows = rows_of(write(tmp_path, "rows.csv", content))
        assert (rows[0], rows[2]) == (DOG, CAT)
        assert rows[1][0].startswith(long) and rows[1][2] == ""


def test_nulls_in_json_are_bad_rows_and_their_neighbours_stay(tmp_path: Path) -> None:
    images = [
        {"filename": "1.jpg", "split": "train", "sentences": [{"raw": None}, {"raw": "a dog"}, {}, {"raw": 5}, None]},
        {"filename": None, "split": "train", "sentences": [{"raw": "a cat"}]},
        {"filename": "2.jpg", "split": "train", "sentences": None},
        {"filename": "3.jpg", "split": None, "sentences": [{"raw": "a bird"}]},
        {"filename": "4.jpg", "split": "test", "sentences": [{"raw": None}]},
    ]
    path, folder = write(tmp_path, "karpathy.json", json.dumps({"images": images})), pictures(tmp_path)
    bad = [("", "1.jpg", "bad_row")]
    assert rows_of(path, images=folder) == [
        *bad, ("a dog", "1.jpg", ""), *bad * 3, ("a cat", "", "bad_row"), ("", "2.jpg", "bad_row"),
        ("a bird", "", "bad_row"),
    ]  # fmt: skip
    assert details_of(path, images=folder) == [
        "its caption is null", "its caption is null", "its caption is no text", "its caption is null",
        "its file name is null", "its sentences are null", "its image is of no split",
    ]  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": None}, {"file_name": "3.jpg"}],
        "annotations": [
            {"image_id": 1, "caption": None}, {"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"},
            {"image_id": None, "caption": "a bird"}, {"image_id": 1},
        ],
    }  # fmt: skip
    path = write(tmp_path, "coco.json", json.dumps(content))
    assert rows_of(path, images=folder) == [
        *bad, ("a dog", "1.jpg", ""), *bad, ("a cat", "", "bad_row"), ("a bird", "", "bad_row")
    ]  # fmt: skip
    assert details_of(path, images=folder) == [
        "its caption is null", "its caption is null", "its file name is null", "its image is not in the file"
    ]  # fmt: skip


def test_every_row_that_cannot_be_used_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = (
        b"no tab\n \thttp://a.example/1\ncaf\xe9\thttp://a.example/1\na dog\tftp://x\na dog\t\na dog\thttp://x:0\n"
    )
    long = b"x" * (row_input.ROW_LIMIT + 1) + b"\thttp://a.example/1\n"
    path = write(tmp_path, "rows.tsv", content + long + TSV.encode())
    assert details_of(path) == [
        "no tab between caption and URL",
        "its caption is blank",
        "not UTF-8 text",
        "does not begin with http:// or https://",
        "no URL",
        "names no host, or port 0",
        "longer than 1,048,576 bytes",
    ]
    assert "1 rows of" in caplog.text and "iconv -f WINDOWS-1252 -t UTF-8" in caplog.text
    table = b'caption,url\na,b,c\n"a"b,http://a.example/1\n' + b"a dog,http://a.example/1\n"
    assert details_of(write(tmp_path, "rows.csv", table)) == [
        "3 fields, and the first row names 2",
        "',' expected after '\"'",
    ]
    pq.write_table(pa.table({"caption": [None, "", "a"], "url": ["http://a.example/1"] * 3}), tmp_path / "rows.parquet")
    assert details_of(tmp_path / "rows.parquet") == ["its caption is null", "its caption is blank"]
    assert web_url_problem("http://a:b/") == "not a URL: its host or port is malformed"
    assert file_name_problem("http://a.example/1.jpg") == "a URL, not a file name below the images folder"
    assert file_name_problem("../1.jpg") == "climbs out of the images folder"
    tokens = write(tmp_path, "rows.token.txt", "1.jpg a dog\n1.jpg#0\ta dog\n/1.jpg#0\ta dog\n")
    assert details_of(tokens, images=pictures(tmp_path)) == [
        "no tab between file name and caption",
        "begins at the root, not below the images folder",
    ]


# --- checks and identity --------------------------------------------------------------------------------------------


def test_folder_that_holds_none_of_the_pictures_is_refused_and_one_of_them_is_enough(tmp_path: Path) -> None:
    lines = "".join(f"{number // 5}.jpg#{number % 5}\ta dog\n" for number in range(600))
    source = RowsConfig(rows=str(write(tmp_path, "a.token.txt", lines)), images=pictures(tmp_path))
    with pytest.raises(UserError, match=r"none of the first 100 pictures is in .*, such as 0\.jpg; set images"):
        check_rows(source, "train", WHERE)
    write(Path(str(source.images)), "99.jpg", b"any")
    check_rows(source, "train", WHERE)


def test_check_reads_only_up_to_the_first_row_that_can_be_used(tmp_path: Path) -> None:
    whole = gzip.compress(b"bad\na dog\thttp://a.example/1\n" + bytes(3 * row_input._CHUNK))
    path = write(tmp_path, "rows.tsv.gz", whole[:-12])
    check_rows(RowsConfig(rows=str(path)), "train", WHERE)
    with pytest.raises(UserError, match="cannot be read to the end"):
        rows_of(path)


def test_identity_follows_the_rows_and_not_their_place(tmp_path: Path) -> None:
    def identity(name: str, content: bytes = b"a\tb\n", **options: Any) -> dict[str, Any]:
        source = RowsConfig(rows=str(write(tmp_path, name, content)), **options)
        return rows_identity(resolve_rows(source, "train", WHERE), WHERE)

    here, there = pictures(tmp_path), str(tmp_path)
    plain = identity("rows.tsv")
    assert list(plain) == ["rows"]
    assert identity("moved.tsv.gz", gzip.compress(b"a\tb\n")) == plain
    assert identity("a.csv", images=here) == identity("b.csv", images=there)
    assert identity("a.csv") == identity("a.csv", url_column="url")  # as it was when url was the default
    one = str(write(tmp_path, "one.txt", "1.jpg\n"))
    two = str(write(tmp_path, "two.txt", "2.jpg\n"))
    different = [
        plain,
        identity("rows.tsv", url_first=True),
        identity("rows.tsv", images=here),
        identity("rows.tsv", images=here, names=one),
        identity("rows.tsv", images=here, names=two),
        identity("a.csv"),
        identity("a.csv", url_column="link"),
        identity("a.csv", images=here),
        identity("a.token.txt", images=here),
    ]
    assert all(different[i] != different[j] for i in range(len(different)) for j in range(i))


@needs_data
def test_real_flickr8k_tokens_give_five_captions_a_picture() -> None:
    folder = DATA / "flickr8k"
    images = next(path for path in folder.iterdir() if path.is_dir())
    rows = rows_of(folder / "captions.token.txt", "test", images=str(images), names=str(folder / "test.txt"))
    assert len(rows) == 5000 and {outcome for _, _, outcome in rows} == {""}
    assert len({name for _, name, _ in rows}) == 1000


@needs_data
def test_real_coco_captions_give_their_annotations() -> None:
    folder = DATA / "coco"
    rows = rows_of(folder / "captions_val2017_subset.json", "val", images=str(folder / "images"))
    assert len(rows) == 795 and len({name for _, name, _ in rows}) == 159
    assert all(not outcome and (folder / "images" / name).exists() for _, name, outcome in rows)
