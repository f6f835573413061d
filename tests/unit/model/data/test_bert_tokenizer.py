"""Ours against transformers' own: the same rules, so the same ids of any text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizerFast

from model.data.bert_tokenizer import bert_tokenizer
from model.data.tokenizer import load_vocabulary, tokenize

PIECES = [
    "[PAD]",
    "[UNK]",
    "a",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "red",
    "Paris",
    "caf",
    "##é",
    "##e",
    "ball",
    "##s",
    "球",
    "!",
]
TEXTS = [
    "a red ball",
    "A RED  balls!",
    "Paris café",
    "cafe\u0301 \u200b",
    "球球 a球",
    "",
    "[MASK] a[SEP]",
    "x" * 200,
    "\x00a\tred\n",
]
RENAMED = {"pad_token": "red", "unk_token": "a", "cls_token": "ball", "sep_token": "!", "mask_token": "Paris"}


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"do_lower_case": False},
        {"strip_accents": True, "do_lower_case": False},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        RENAMED,
    ],
)
def test_it_is_that_of_transformers(rules: dict[str, Any]) -> None:
    pieces = {piece: number for number, piece in enumerate(PIECES)}
    ours, theirs = bert_tokenizer(pieces, **rules), BertTokenizerFast(pieces, **rules)
    assert json.loads(ours.to_str()) == json.loads(theirs.backend_tokenizer.to_str())
    assert [one.ids for one in ours.encode_batch_fast(TEXTS)] == theirs(TEXTS)["input_ids"]
    ours.enable_truncation(5)
    assert [one.ids for one in ours.encode_batch_fast(TEXTS)] == theirs(TEXTS, truncation=True, max_length=5)[
        "input_ids"
    ]
    assert [ours.decode(one.ids) for one in ours.encode_batch(TEXTS)] == theirs.batch_decode(
        theirs(TEXTS, truncation=True, max_length=5)["input_ids"], skip_special_tokens=True
    )


def test_the_digest_of_a_vocabulary_is_that_of_earlier_versions(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    vocabulary = load_vocabulary(path)
    assert vocabulary.digest == "70242f076980a99e94cd82b2414955bedea1cafe46f365abc6d9b946f6f43357"
    table = tokenize(vocabulary, TEXTS, 6)
    assert (
        vocabulary.digest == "70242f076980a99e94cd82b2414955bedea1cafe46f365abc6d9b946f6f43357"
    )  # How long a caption may be is no part of it.
    assert [table[row].tolist() for row in (0, 1)] == [[3, 2, 6, 11, 4], [3, 2, 6, 11, 12, 4]]


def test_a_piece_may_hold_what_is_a_line_end_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*PIECES, "b\u2028c", "last"]).encode())
    vocabulary = load_vocabulary(path)
    assert (vocabulary.size, vocabulary.tokenizer.token_to_id("last")) == (17, 16)
