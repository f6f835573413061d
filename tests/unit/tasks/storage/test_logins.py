"""Passwords in URIs are refused where we are asked to keep them, and not shown where a list brings them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from flows.params.checks import validation_text
from tasks.config import DatasetConfig, RowsConfig
from tasks.storage.logins import has_login, without_login


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@example.org/a.tsv", "https://example.org/a.tsv"),
        ("s3://KEY:secret@bucket/a", "s3://bucket/a"),
        ("https://token@example.org", "https://example.org"),
        ("https://a@b:secret@example.org/x@y", "https://example.org/x@y"),
        ("simplecache::https://me:secret@example.org/a", "simplecache::https://example.org/a"),
        (
            "https://b.s3.amazonaws.com/a.tsv?X-Amz-Expires=9&X-Amz-Credential=AKIA%2Fsecret&X-Amz-Signature=secret",
            "https://b.s3.amazonaws.com/a.tsv?X-Amz-Expires=9&X-Amz-Credential=...&X-Amz-Signature=...",
        ),
        ("https://s/a?GoogleAccessId=secret&Signature=secret", "https://s/a?GoogleAccessId=...&Signature=..."),
        ("https://a.blob.core.windows.net/c/a?sv=1&sig=secret#x", "https://a.blob.core.windows.net/c/a?sv=1&sig=...#x"),
        ("https://example.org/a.jpg?w=5&access_token=secret", "https://example.org/a.jpg?w=5&access_token=..."),
    ],
)
def test_a_login_is_found_and_left_out(uri: str, shown: str) -> None:
    assert has_login(uri) and without_login(uri) == shown


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/@me/1.jpg",
        "https://example.org?mail=a@b.c",
        "a@b/c.tsv",
        "s3://b",
        "https://example.org/a.tsv?download=true&design=2&tokens=5",
    ],
)
def test_an_at_elsewhere_is_no_login(uri: str) -> None:
    assert not has_login(uri) and without_login(uri) == uri


def test_logins_in_a_message_are_left_out_and_nothing_else() -> None:
    said = 'no answer from "http://me:secret@minio:9000/b?x=1&sig=secret", ask admin@example.org'
    assert without_login(said) == 'no answer from "http://minio:9000/b?x=1&sig=...", ask admin@example.org'


@pytest.mark.parametrize(
    "uri", ["https://me:secret@example.org/rows.tsv", "https://example.org/rows.tsv?X-Amz-Signature=secret"]
)
def test_rows_with_a_login_are_refused_without_repeating_it(uri: str) -> None:
    for make in (
        lambda: RowsConfig(rows=uri),
        lambda: RowsConfig(rows="a.json", images=uri),
        lambda: DatasetConfig(name="web", splits={"train": uri}),
    ):
        with pytest.raises(ValidationError) as caught:
            make()
        said = validation_text(caught.value)
        assert "https://example.org/rows.tsv" in said and "came with a login" in said and "secret" not in said
