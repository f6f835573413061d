"""Whole-word masking and rows of text against values of VL-BERT's own program, and against a slow twin."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.data.passages import PassageTable, TextCorpus
from model.data.tokenizer import TokenTable, load_vocabulary
from model.objectives.config import WordMasking
from model.objectives.masking import Pieces, WordDraws, mask_whole_words

GOLDEN = json.loads((Path(__file__).parents[3] / "golden/whole_words.json").read_text())
BERT = WordMasking(rate=0.15, mask_share=0.8, random_share=0.1, at_least_one=False)


@pytest.fixture
def vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(GOLDEN["vocabulary"]) + "\n")
    return load_vocabulary(tmp_path / "vocab.txt")


def pieces_of(vocabulary):
    return Pieces.of(vocabulary.size, vocabulary.mask_id, vocabulary.special_ids)


def masked(vocabulary, ids, word_draws, replacements):
    """Inputs and targets (-1: none) of one row, by one draw a word, as the original takes it."""
    ids, pieces = np.array([ids], np.int64), pieces_of(vocabulary)
    numbers = vocabulary.word_numbers(ids)
    choice = np.array([word_draws])
    treatment = choice / 0.15
    replaced = np.flatnonzero((numbers[0] >= 0) & (np.take(choice, np.maximum(numbers, 0)) >= 0.12)[0])
    replaced = [place for place in replaced if choice[0, numbers[0, place]] < 0.135]
    piece = np.zeros(ids.shape)
    for place, name in zip(replaced, replacements, strict=True):
        at = int(np.flatnonzero(pieces.ordinary == vocabulary.tokenizer.token_to_id(name))[0])
        piece[0, place] = (at + 0.5) / len(pieces.ordinary)
    inputs, chosen = mask_whole_words(ids, numbers, WordDraws(choice, treatment, piece), BERT, pieces)
    return inputs[0].tolist(), np.where(chosen, ids, -1)[0].tolist()


@pytest.mark.parametrize("number", range(len(GOLDEN["captions"])))
def test_captions_are_masked_as_the_original_masks_them(vocabulary, number):
    golden = GOLDEN["captions"][number]
    ids = vocabulary.tokenizer.encode(" ".join(golden["words"])).ids
    inputs, targets = masked(vocabulary, ids, golden["word_draws"], golden["replacement_pieces"])
    expected = golden["expected"]
    kept = len(expected["ids"]) - 1  # Longer ones lose the words before [SEP].
    assert inputs[:kept] + inputs[-1:] == expected["ids"]
    assert targets[:kept] + targets[-1:] == expected["mlm_labels"]


@pytest.mark.parametrize("number", range(len(GOLDEN["corpus"])))
def test_rows_of_text_are_the_originals(vocabulary, number):
    golden = GOLDEN["corpus"][number]
    lines = [line for line in golden["lines"] if line.strip()]
    encoded = [vocabulary.tokenizer.encode(line, add_special_tokens=False).ids for line in lines]
    starts = np.cumsum([0, *map(len, encoded)])
    table = PassageTable((TokenTable(np.concatenate(encoded).astype(np.uint16), starts),))
    settings = {"seed": 0, "batch_size": 1, "min_words": golden["min_words"]}
    whole = TextCorpus(table, vocabulary, "toy/train", max_text_tokens=1000, **settings)
    cut = TextCorpus(table, vocabulary, "toy/train", max_text_tokens=golden["seq_len"], **settings)

    row = whole.row(golden["item"])
    assert vocabulary.word_numbers(row).max() + 1 == len(golden["words"])
    inputs, targets = masked(vocabulary, row, golden["word_draws"], golden["replacement_pieces"])
    size = golden["seq_len"]
    assert cut.row(golden["item"]).tolist() == row[:size].tolist()
    assert (inputs[:size], targets[:size]) == (golden["expected"]["ids"], golden["expected"]["mlm_labels"])


def slowly(ids, numbers, draws, rule, pieces):
    """One word after the other."""
    inputs, chosen = ids.copy(), np.zeros(ids.shape, bool)
    for row in range(len(ids)):
        words = sorted(set(numbers[row][numbers[row] >= 0].tolist()))
        hidden = [word for word in words if draws.choice[row, word] < rule.rate]
        if not hidden and rule.at_least_one and words:
            hidden = [min(words, key=lambda word: draws.choice[row, word])]
        for word in hidden:
            places = [place for place in range(ids.shape[1]) if numbers[row, place] == word]
            for place in places:
                chosen[row, place] = True
                if draws.treatment[row, word] < rule.mask_share:
                    inputs[row, place] = pieces.mask_id
                elif draws.treatment[row, word] < rule.mask_share + rule.random_share:
                    inputs[row, place] = pieces.ordinary[int(draws.piece[row, place] * len(pieces.ordinary))]
    return inputs, chosen


@pytest.mark.parametrize("at_least_one", [False, True])
def test_masking_is_that_of_a_slow_twin(vocabulary, at_least_one):
    random = np.random.default_rng(1)
    pieces = pieces_of(vocabulary)
    ids = random.integers(0, vocabulary.size, (200, 13))
    ids[:, 0], ids[::2, -1], ids[::3, 9:] = vocabulary.tokenizer.token_to_id("[CLS]"), vocabulary.sep_id, 0
    numbers = vocabulary.word_numbers(ids)
    numbers[0] = -1  # A row without a word.
    draws = WordDraws(random.random((200, 13)), random.random((200, 13)), random.random((200, 13)))
    rule = BERT.model_copy(update={"rate": 0.2, "mask_share": 0.5, "random_share": 0.3, "at_least_one": at_least_one})
    inputs, chosen = mask_whole_words(ids, numbers, draws, rule, pieces)
    expected = slowly(ids, numbers, draws, rule, pieces)
    assert (inputs == expected[0]).all() and (chosen == expected[1]).all()
    assert not chosen[0].any() and chosen[1:].any(1).all() == at_least_one
    changed = inputs != ids
    assert not np.isin(inputs[changed & (inputs != vocabulary.mask_id)], vocabulary.special_ids).any()


def test_words_are_counted_from_their_first_pieces(vocabulary):
    encoded = vocabulary.tokenizer.encode("a greenish dog, running")
    numbers = vocabulary.word_numbers(np.array([[*encoded.ids, vocabulary.pad_id]]))[0].tolist()
    # `word_ids` is the tokenizer's own answer; None where there is no word.
    assert numbers == [-1 if word is None else word for word in encoded.word_ids] + [-1]
    assert numbers.count(1) > 1
