"""What VL-BERT's program makes of pairs and rows of text, given its draws, against ours: a folder's data.json.

Not tried: boxes scaled for the original's pixels and flipped (a box enters as shares of its picture here), and what
samples of its tasks become.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.batch import Regions
from model.data.passages import PassageTable, TextCorpus
from model.data.tokenizer import TokenTable, Vocabulary, load_vocabulary
from model.families.vl_bert import with_whole_picture
from model.objectives.config import RegionMasking, WordMasking
from model.objectives.masking import (
    SEEN,
    ZEROED,
    Pieces,
    WordDraws,
    joint_lengths,
    mask_regions,
    mask_whole_words,
)
from tests.golden.reference import OUTPUT_TOLERANCE, Verdict

WORDS = WordMasking(rate=0.15, mask_share=0.8, random_share=0.1, at_least_one=False)
REGIONS = RegionMasking(rate=0.15, zero_share=0.9)
_NOT_TRIED = ("captions/boxes", "vcr", "vqa", "iou")


def check_data(path: Path) -> list[tuple[str, Verdict]]:
    """The verdict on each group of a data.json."""
    content = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(content["vocabulary"]) + "\n")
        vocabulary = load_vocabulary(str(Path(folder) / "vocab.txt"))
    verdicts = {group: Verdict() for group in ("captions/words", "captions/regions", "corpus")}
    for number, golden in enumerate(content["captions"]):
        words, regions = caption(golden, vocabulary)
        for group, found in (("captions/words", words), ("captions/regions", regions)):
            _compare(verdicts[group], found, golden["expected"], f"captions[{number}]")
    for number, golden in enumerate(content["corpus"]):
        _compare(verdicts["corpus"], text_row(golden, vocabulary), golden["expected"], f"corpus[{number}]")
    return [*verdicts.items(), *((group, Verdict(missing=[group])) for group in _NOT_TRIED)]


def _compare(verdict: Verdict, ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> None:
    for name, found in ours.items():
        expected, found = np.asarray(theirs[name], np.float64), np.asarray(found, np.float64)
        verdict.compared += 1
        off, share = np.inf, np.inf
        if found.shape == expected.shape:
            off = float(np.abs(found - expected).max())
            share = float((np.abs(found - expected) / (OUTPUT_TOLERANCE * np.maximum(1, np.abs(expected)))).max())
        verdict.difference = max(verdict.difference, off)
        if share >= verdict.share:
            verdict.share, verdict.worst = share, f"{where}/{name}"


def caption(golden: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[dict[str, Any], dict[str, Any]]:
    """The words and the regions of a pair."""
    ids = np.array(vocabulary.tokenizer.encode(" ".join(golden["words"])).ids)
    classes = np.array(golden["classes"], np.float32)
    order = np.argsort(-classes.max(1), kind="stable")
    features, classes = np.array(golden["features"], np.float32)[order], classes[order]
    pieces, kept = (
        int(one[0]) for one in joint_lengths(np.array([len(ids)]), np.array([1 + len(order)]), golden["seq_len"])
    )
    if pieces < len(ids):
        ids = np.concatenate([ids[: pieces - 1], ids[-1:]])
    draws = np.array([golden["region_draws"]])
    treatments = mask_regions(np.ones_like(draws, bool), draws, draws / REGIONS.rate, REGIONS)[0]
    hidden, targets = treatments == ZEROED, treatments != SEEN
    shown = torch.from_numpy(features)[None]
    mask, empty = torch.ones(shown.shape[:2], dtype=torch.bool), torch.zeros(shown.shape[:2])
    size = torch.tensor([[float(golden["image_w"]), float(golden["image_h"])]])
    boxes = torch.tensor(golden["boxes"])[order][None]
    regions = Regions(shown, empty, boxes, size, empty.long(), empty, empty, mask)
    # The file shows the features before the model puts its learned vector in place of hidden ones.
    whole = with_whole_picture(regions, shown, torch.from_numpy(hidden)[None])[1][0, 0]
    return _masked(ids, golden, vocabulary), {
        "features": np.concatenate([whole[None].numpy(), features])[:kept],
        "mvrc_ops": np.concatenate([[False], hidden])[:kept],
        "mvrc_labels": np.concatenate([np.zeros_like(classes[:1]), classes * targets[:, None]])[:kept],
    }


def text_row(golden: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    lines = [line for line in golden["lines"] if line.strip()]
    encoded = [vocabulary.tokenizer.encode(line, add_special_tokens=False).ids for line in lines]
    starts = np.cumsum([0, *map(len, encoded)])
    table = PassageTable((TokenTable(np.concatenate(encoded).astype(np.uint16), starts),))
    corpus = TextCorpus(table, vocabulary, "golden", 0, 1, golden["seq_len"], golden["min_words"])
    return _masked(corpus.row(golden["item"]).astype(np.int64), golden, vocabulary)


def _masked(ids: Any, golden: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Inputs and targets (-1: none) of one row, by one draw a word, as the program takes it."""
    pieces = Pieces.of(vocabulary.size, vocabulary.mask_id, vocabulary.special_ids)
    numbers, choice = vocabulary.word_numbers(ids[None]), np.array([golden["word_draws"]])
    treatment = choice / WORDS.rate
    drawn = np.where(numbers[0] >= 0, treatment[0, np.maximum(numbers[0], 0)], 1.0)
    replaced = np.flatnonzero((drawn >= WORDS.mask_share) & (drawn < WORDS.mask_share + WORDS.random_share))
    piece = np.zeros(numbers.shape)
    for place, name in zip(replaced, golden["replacement_pieces"], strict=False):
        at = int(np.flatnonzero(pieces.ordinary == vocabulary.tokenizer.token_to_id(name))[0])
        piece[0, place] = (at + 0.5) / len(pieces.ordinary)
    inputs, chosen = mask_whole_words(ids[None], numbers, WordDraws(choice, treatment, piece), WORDS, pieces)
    return {"ids": inputs[0], "mlm_labels": np.where(chosen[0], ids, -1)}
