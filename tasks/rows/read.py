"""The rows of one split, in any published form, as a stream of (caption, url, outcome, detail).

`outcome` is "" for a row that can be used, else bad_row (its text cannot be read or parted, or its caption is blank)
or bad_url (not http or https, or no host; where pictures lie on disk: no file name below their folder). `detail` says
why, in the same words for all rows of one kind. Nothing is dropped, so outcomes always sum to the number of input rows.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import fsspec

from tasks.config import RowsConfig, RowsForm
from tasks.errors import UserError
from tasks.records import Outcome
from tasks.rows.forms import RawRow, coco_rows, csv_rows, karpathy_rows, parquet_rows, token_rows, tsv_rows
from tasks.rows.input import (
    CONVERT,
    NOT_UTF8,
    PACKED_SUFFIXES,
    input_chunks,
    input_lines,
    open_input,
    plain_name,
    text_chunks,
)

log = logging.getLogger("tasks.rows")

Row = tuple[str, str, str, str]

_READERS: dict[RowsForm, Callable[[RowsConfig, str], Iterator[RawRow]]] = {
    "tsv": tsv_rows,
    "csv": csv_rows,
    "parquet": parquet_rows,
    "karpathy": karpathy_rows,
    "coco": coco_rows,
    "tokens": token_rows,
}
_EXPECTED: dict[RowsForm, str] = {
    "tsv": "expected caption TAB url in every row, without header or quoting",
    "csv": "expected comma-separated rows, the first of them naming the columns",
    "parquet": "expected a Parquet file with a caption and a URL column",
    "karpathy": "expected Karpathy's json: images with filename, split and sentences",
    "coco": "expected COCO's captions json: images with id and file_name, annotations with image_id and caption",
    "tokens": "expected name#0 TAB caption in every row",
}
_SUFFIXES: dict[str, RowsForm] = {
    ".token.txt": "tokens",
    ".token": "tokens",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".parquet": "parquet",
}
_PICTURE_FORMS = ("karpathy", "coco", "tokens")
_JSON_KEY = re.compile(rb'"(sentences|annotations)"\s*:')
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?:[/?#][^\x00-\x1f]*)?\Z")
_PICTURES_LOOKED_FOR = 100
_GLANCE = 1000  # Rows read to see whether their columns are swapped.


def resolve_rows(source: RowsConfig, split: str, where: str) -> RowsConfig:
    """Fill in `form` and, for Karpathy's files, `select`.

    Args:
        source: as the dataset names it.
        split: the split whose rows they are.
        where: what they are, for messages: `caption rows of web/train`.

    Raises:
        UserError: the form cannot be told, settings exclude each other, or the rows or the folder of pictures are not
            there.
    """
    form = source.form or _form_of(source.rows, where)
    if source.images is None and form in _PICTURE_FORMS:
        raise UserError(f"{where}: form {form} names pictures on disk; set images to the folder that they lie in")
    if source.images is None and source.names is not None:
        raise UserError(f"{where}: names lists pictures on disk; set images to the folder that they lie in")
    if source.select is not None and form != "karpathy":
        raise UserError(f"{where}: select is for form karpathy, and {source.rows} is {form}; leave it out")
    if source.url_first and form != "tsv":
        raise UserError(f"{where}: url_first is for form tsv, and {source.rows} is {form}; leave it out")
    with open_input(source.rows, where, _EXPECTED[form]):
        pass  # Opened only to name what is expected where there is no such file.
    if source.images is not None:
        _check_folder(source.images, where)
    select = source.select
    if form == "karpathy" and select is None:
        # COCO's restval is trained on by everyone who reports on Karpathy's splits.
        select = ("train", "restval") if split == "train" else (split,)
    return source.model_copy(update={"form": form, "select": select})


def rows_identity(source: RowsConfig, where: str) -> dict[str, Any]:
    """The part of a fingerprint that rows decide: content and form, not where the files lie.

    Raises:
        UserError: a file is missing, unreadable or empty.
    """
    identity: dict[str, Any] = {"rows": _sha256(source.rows, where, _expected(source))}
    if source.form == "tsv" and not source.url_first and source.images is None:
        return identity  # As it was when there was no other form: manifests of that time stay valid.
    identity["form"] = source.form
    identity["pictures"] = source.images is not None
    if source.form == "tsv":
        identity["url_first"] = source.url_first
    if source.form in ("csv", "parquet"):
        # The file decides which column None means, so that no two of them share an identity.
        identity["columns"] = [source.caption_column, source.url_column or "url"]
    if source.form == "karpathy":
        identity["select"] = sorted(source.select or ())
    if source.names is not None:
        identity["names"] = _sha256(source.names, f"names for {where}", "one file name a line")
    return identity


def read_rows(source: RowsConfig, where: str) -> Iterator[Row]:
    """Read every row of a resolved source, in order.

    With `names`, the rows of other pictures belong to other splits and are left out; a row that names no picture
    belongs to every split.

    Raises:
        UserError: the input cannot be read to its end, or, after the last row, none of them could be used.
    """
    url_problem = web_url_problem if source.images is None else file_name_problem
    names = None if source.names is None else _names(source.names, where)
    missing = set(names or ())
    found = usable = False
    unreadable = 0
    first_url = first_problem = ""
    for caption, url, problem in _raw_rows(source, where):
        url = url.strip()
        if names is not None and url:
            if url not in names:
                continue
            missing.discard(url)
        found = True
        if not problem and not caption.strip():
            problem = "its caption is blank"
        if problem:
            first_problem = first_problem or problem
            unreadable += problem == NOT_UTF8
            yield caption, url, Outcome.BAD_ROW.value, problem
        elif problem := url_problem(url):
            first_url = first_url or url
            yield caption, url, Outcome.BAD_URL.value, problem
        else:
            usable = True
            yield caption, url, "", ""
    if not usable:
        raise _useless(source, where, found, first_url, first_problem)
    if unreadable:
        log.warning(
            "%s: %d rows of %s are no UTF-8 text and count as bad_row; %s", where, unreadable, source.rows, CONVERT
        )
    if missing:
        log.warning("%s: %d names of %s have no row, first %s", where, len(missing), source.names, min(missing))


def check_rows(source: RowsConfig, split: str, where: str) -> None:
    """Raise UserError unless a row can be read and used.

    Where rows name pictures, one of these has to be there.

    Reads up to the first such row; files of JSON are read whole.

    Args:
        source: as the dataset names it.
        split: the split whose rows they are.
        where: what they are, for messages: `caption rows of web/train`.
    """
    resolved = resolve_rows(source, split, where)
    usable = (url for _, url, outcome, _ in read_rows(resolved, where) if not outcome)
    if resolved.images is None:
        next(usable, None)
    else:
        _check_pictures(resolved, usable, where)


def is_web_url(url: str) -> bool:
    """True for http and https URLs that name a host, and a numeric port if any."""
    return not web_url_problem(url)


def web_url_problem(url: str) -> str:
    """Why a URL cannot be requested; "" where it can."""
    if _PLAIN_URL.match(url):
        return ""  # The pattern decides nearly all URLs at a tenth of the cost; urlsplit decides the rest.
    if not url:
        return "no URL"
    if any(character < " " for character in url):
        return "holds a control character"  # urlsplit drops them at the front, servers do not.
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "not a URL: its host or port is malformed"
    if parts.scheme not in ("http", "https"):
        return "does not begin with http:// or https://"
    return "" if parts.hostname and port != 0 else "names no host, or port 0"


def is_file_name(name: str) -> bool:
    """True for a relative name with forward slashes that stays below its folder."""
    return not file_name_problem(name)


def file_name_problem(name: str) -> str:
    """Why a name cannot be a picture's below the images folder; "" where it can."""
    if not name:
        return "no file name"
    if "://" in name:
        return "a URL, not a file name below the images folder"
    if name.startswith("/"):
        return "begins at the root, not below the images folder"
    if "\\" in name or "\0" in name:
        return "holds a backslash or a NUL; folders are parted by /"
    return "climbs out of the images folder" if ".." in name.split("/") else ""


# --- forms ----------------------------------------------------------------------------------------------------------


def _form_of(uri: str, where: str) -> RowsForm:
    name = plain_name(uri)
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    for suffix, form in _SUFFIXES.items():
        if name.endswith(suffix):
            return form
    if name.endswith(".json"):
        key = _JSON_KEY.search(b"".join(text_chunks(uri, where)))
        if key is None:
            raise UserError(
                f"{where}: {uri} has neither the sentences of Karpathy's json nor the annotations of COCO's"
            )
        return "karpathy" if key[1] == b"sentences" else "coco"
    raise UserError(
        f"{where}: the form of {uri} cannot be told from its name; set form to one of {', '.join(_READERS)}"
    )


def _raw_rows(source: RowsConfig, where: str) -> Iterator[RawRow]:
    assert source.form is not None, "resolve_rows comes first"
    return _READERS[source.form](source, where)


def _expected(source: RowsConfig) -> str:
    assert source.form is not None, "resolve_rows comes first"
    return "expected url TAB caption in every row, without header" if source.url_first else _EXPECTED[source.form]


def _check_folder(uri: str, where: str) -> None:
    try:
        files, path = fsspec.core.url_to_fs(uri)
        there = files.isdir(path)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{where}: pictures cannot be read: {uri} ({error}); give a readable folder") from error
    if not there:
        raise UserError(f"{where}: there is no folder {uri}; set images to the folder that the pictures lie in")


def _check_pictures(source: RowsConfig, names: Iterator[str], where: str) -> None:
    """Raise UserError where the folder has none of the first pictures: it is another one, or above the right one.

    Or what was taken for file names are the captions.
    """
    found, missing = _first_pictures(source, names)
    if found or not missing:
        return
    if source.form == "tsv" and source.names is None:
        swapped = source.model_copy(update={"url_first": not source.url_first})
        if _first_pictures(swapped, (url.strip() for _, url, _ in _raw_rows(swapped, where)))[0]:
            advice = "unset url_first" if source.url_first else "set url_first"
            raise UserError(f"{where}: caption and file name are the other way round in {source.rows}; {advice}")
    raise UserError(
        f"{where}: none of the first {len(missing)} pictures is in {source.images}, such as {missing[0]}; "
        "set images to the folder that their names are relative to"
    )


def _first_pictures(source: RowsConfig, names: Iterator[str]) -> tuple[bool, list[str]]:
    """Whether a first name is a file of the folder, and the missing names before it."""
    files, folder = fsspec.core.url_to_fs(source.images)
    missing: dict[str, None] = {}
    for name in filter(is_file_name, names):
        if name in missing:
            continue
        if files.exists(f"{str(folder).rstrip('/')}/{name}"):
            return True, list(missing)
        missing[name] = None
        if len(missing) == _PICTURES_LOOKED_FOR:
            break
    return False, list(missing)


def _names(uri: str, where: str) -> frozenset[str]:
    lines = (line.decode(errors="replace").strip() for line in input_lines(uri, f"names for {where}"))
    return frozenset(line for line in lines if line)


def _sha256(uri: str, where: str, expected: str) -> str:
    """Digest of the unpacked content, which packing or moving the file does not change."""
    digest = hashlib.sha256()
    empty = True
    for chunk in input_chunks(uri, where):
        digest.update(chunk)
        empty = False
    if empty:
        raise _empty(uri, where, expected)
    return digest.hexdigest()


# --- when no row can be used ----------------------------------------------------------------------------------------


def _empty(uri: str, where: str, expected: str) -> UserError:
    return UserError(f"{where} are empty: {uri}; {expected}")


def _useless(source: RowsConfig, where: str, found: bool, first_url: str, first_problem: str) -> UserError:
    """Why no row could be used."""
    if not found and source.names is not None:
        return UserError(f"{where}: no row of {source.rows} is of a picture that {source.names} lists; check the names")
    if not found:
        return _empty(source.rows, where, _expected(source))
    if source.form == "tsv" and source.images is None and _is_swapped(source, where):
        advice = "unset url_first" if source.url_first else "set url_first"
        return UserError(f"{where}: caption and URL are the other way round in {source.rows}; {advice}")
    if first_url:
        kind = "web address" if source.images is None else "file name below its images folder"
        return UserError(
            f"{where}: no URL of {source.rows} is a {kind}, the first is {first_url[:200]!r}; {_expected(source)}"
        )
    seen = f" (the first: {first_problem})" if first_problem else ""
    return UserError(f"{where}: no row of {source.rows} is a caption and a URL{seen}; {_expected(source)}")


def _is_swapped(source: RowsConfig, where: str) -> bool:
    swapped = source.model_copy(update={"url_first": not source.url_first})
    return any(
        not problem and is_web_url(url.strip()) for _, url, problem in islice(_raw_rows(swapped, where), _GLANCE)
    )
