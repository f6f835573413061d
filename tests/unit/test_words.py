"""The field's words: private names do not come back, and the glossary has every word once (docs/glossary.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(
    path for room in ("flows", "tasks", "model", "feature_extraction") for path in (REPOSITORY / room).rglob("*.py")
)
PRIVATE = {
    "company": "batch, collective",
    "fate": "treatment",
    "seat": "rank, resources",
    "shelf": "store",
    "stamp": "fingerprint",
    "standing": "finished, present",
    "stranger": "negative, other",
    "victim": "affected",
    "witness": "host that answered",
}
"""Names that cost a reader a translation, and the field's words for them."""


def words_of_names(source: str) -> Iterator[str]:
    """Every word, in the singular, of the names that a source binds or uses: of `_OldShelf`, old and shelf."""
    for node in ast.walk(ast.parse(source)):
        for key in ("id", "arg", "attr", "name"):
            name = getattr(node, key, None)
            if isinstance(name, str):
                for word in re.findall(r"[a-z]+|[A-Z][a-z]*", name):
                    yield re.sub(r"(?<=[a-z])(?:es|s)$", "", word.lower()).replace("shelv", "shelf")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_names_are_the_fields_words(path: Path) -> None:
    assert {word: PRIVATE[word] for word in words_of_names(path.read_text()) if word in PRIVATE} == {}


def test_a_private_name_would_be_found() -> None:
    source = "class OldShelf: ...\ndef f(seats): witnesses.standing = shelves"
    assert PRIVATE.keys() - set(words_of_names(source)) == {"company", "fate", "stamp", "stranger", "victim"}


def test_the_glossary_has_every_word_once() -> None:
    table = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", (REPOSITORY / "docs/glossary.md").read_text(), re.MULTILINE)[2:]
    words = [word for names, _ in table for word in names.split(", ")]
    assert len(words) > 40 and len(words) == len(set(words))
    assert not set(words) & PRIVATE.keys()
