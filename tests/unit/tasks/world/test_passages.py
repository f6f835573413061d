"""Text alone of the demo's world."""

from __future__ import annotations

from pathlib import Path

from tasks.world.captions import SYNONYMS, vocabulary
from tasks.world.passages import make_passages


def made(path: Path, seed: int, passages: int) -> list[str]:
    make_passages(path, seed, passages)
    return path.read_text().splitlines()


def test_passages_have_the_captions_words_of_both_kinds(tmp_path: Path) -> None:
    lines = made(tmp_path / "text" / "passages.txt", 0, 40)
    assert len(lines) == len(set(lines)) == 40
    words = {word for line in lines for word in line.split()}
    assert words <= set(vocabulary()) and words & set(SYNONYMS) and words & set(SYNONYMS.values())


def test_passages_are_a_function_of_the_seed_and_made_once(tmp_path: Path) -> None:
    first = made(tmp_path / "a", 0, 5)
    assert made(tmp_path / "b", 0, 5) == first
    assert not set(made(tmp_path / "c", 1, 5)) & set(first)
    assert made(tmp_path / "a", 0, 6) == first
