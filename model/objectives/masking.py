"""Masks of words and regions. Pure numpy; every choice comes from the draws given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.data.tokenizer import Vocabulary
from model.errors import InputError
from model.objectives.config import RegionMasking, WordMasking

SEEN, KEPT, ZEROED, NOISED, SWAPPED = range(5)
"""What becomes of a region: not chosen; or chosen, and its feature kept or replaced."""


@dataclass(frozen=True)
class Pieces:
    """The vocabulary for masking: [MASK]'s id, the pieces (N,) that are drawn at random, which are special (V,)."""

    mask_id: int
    ordinary: npt.NDArray[np.int64]
    is_special: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, size: int, mask_id: int, special_ids: Sequence[int], first: int = 0) -> Pieces:
        """Ordinary pieces are those from id `first` on."""
        is_special = np.zeros(size, np.bool_)
        is_special[list(special_ids)] = True
        ordinary = np.flatnonzero(~is_special)
        return cls(mask_id, ordinary[ordinary >= first], is_special)


@dataclass(frozen=True)
class WordDraws:
    """Draws in [0, 1): whether a word or piece is chosen, what becomes of it, which random piece it becomes."""

    choice: npt.NDArray[np.float64]
    treatment: npt.NDArray[np.float64]
    piece: npt.NDArray[np.float64]


def mask_words(
    ids: npt.NDArray[np.int64], draws: WordDraws, rule: WordMasking, pieces: Pieces
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Choose the word pieces to predict and hide them: Unicoder-VL section 3.2.1. Special tokens are never chosen.

    Args:
        ids: (B, T) with [CLS], [SEP] and padding.
        draws: (B, T) each, a column a piece.

    Returns:
        Inputs (B, T), and (B, T) True where the old piece is to be predicted.
    """
    return _mask(ids, ~pieces.is_special[ids], draws, rule, pieces)


def mask_whole_words(
    ids: npt.NDArray[np.int64],
    words: npt.NDArray[np.int64],
    draws: WordDraws,
    rule: WordMasking,
    pieces: Pieces,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Choose the words to predict and hide all pieces of each, as VL-BERT does.

    The pieces of a word are all [MASK], or each a random piece of its own, or all kept. A word that became [UNK] can be
    chosen. VL-BERT's program draws random pieces among all, special ones too, of which [PAD] moved that row's targets;
    here they are ordinary ones.

    Args:
        ids: (B, T) with or without [CLS] and [SEP], and with padding.
        words: (B, T) the number of each piece's word, from 0 in each row; -1 for what is no word. See `Vocabulary`.
        draws: choice and treatment (B, W), a column a word, where W is more than any number of a word; piece (B, T).

    Returns:
        Inputs (B, T), and (B, T) True where the old piece is to be predicted.
    """
    columns = np.maximum(words, 0)
    of_pieces = WordDraws(
        choice=np.take_along_axis(draws.choice, columns, 1),
        treatment=np.take_along_axis(draws.treatment, columns, 1),
        piece=draws.piece,
    )
    return _mask(ids, words >= 0, of_pieces, rule, pieces)


def _mask(
    ids: npt.NDArray[np.int64],
    candidate: npt.NDArray[np.bool_],
    draws: WordDraws,
    rule: WordMasking,
    pieces: Pieces,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    chosen = candidate & (draws.choice < rule.rate)
    is_masked = chosen & (draws.treatment < rule.mask_share)
    if rule.at_least_one and rule.rate > 0:
        choice = np.where(candidate, draws.choice, 2.0)
        if rule.forced == "first":
            wanted = np.take_along_axis(choice, candidate.argmax(1)[:, None], 1)
        else:
            # The candidate nearest to being chosen; each is so with the same probability.
            wanted = choice.min(1, keepdims=True)
        # Pieces of one word share a draw.
        forced = candidate & (choice == wanted) & ~chosen.any(1, keepdims=True)
        is_masked |= forced & ((rule.forced == "first") | (draws.treatment < rule.mask_share))
        chosen = chosen | forced
    is_random = chosen & ~is_masked & (draws.treatment < rule.mask_share + rule.random_share)
    inputs = np.where(is_masked, pieces.mask_id, ids)
    inputs[is_random] = pieces.ordinary[(draws.piece[is_random] * len(pieces.ordinary)).astype(np.int64)]
    return inputs, chosen


def choose_and_mask(
    ids: npt.NDArray[np.int64],
    words: npt.NDArray[np.int64] | None,
    draws: WordDraws,
    rule: WordMasking,
    pieces: Pieces,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """`mask_whole_words`, or `mask_words` where no words are given; draws (B, T) each."""
    if words is None:
        return mask_words(ids, draws, rule, pieces)
    return mask_whole_words(ids, words, draws, rule, pieces)


def joint_lengths(
    words: npt.NDArray[np.int64], regions: npt.NDArray[np.int64], limit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many pieces and regions (B,) of each pair stay, where both together are to be `limit` at most.

    While there are more, a region goes where regions are more than pieces, else a piece (VL-BERT's program).
    """
    regions = np.minimum(regions, np.maximum(limit - words, limit - limit // 2))
    return np.minimum(words, limit - regions), regions


def mask_regions(
    present: npt.NDArray[np.bool_],
    choice: npt.NDArray[np.float64],
    treatment: npt.NDArray[np.float64],
    rule: RegionMasking,
) -> npt.NDArray[np.int8]:
    """What becomes of each region: Unicoder-VL section 3.2.2.

    Args:
        present: (B, R) False at padding, which is never chosen.
        choice, treatment: (B, R) draws in [0, 1): whether it is chosen, and what becomes of it then.

    Returns:
        (B, R) of SEEN, KEPT, ZEROED, NOISED or SWAPPED.
    """
    chosen = present & (choice < rule.rate)
    if rule.at_least_one and rule.rate > 0:
        nearest = np.where(present, choice, 2.0).argmin(1)
        lacking = np.flatnonzero(present.any(1) & ~chosen.any(1))
        chosen[lacking, nearest[lacking]] = True
    ends = np.cumsum([rule.zero_share, rule.noise_share, rule.swap_share])
    treatments = np.array([ZEROED, NOISED, SWAPPED, KEPT], np.int8)[np.searchsorted(ends, treatment, side="right")]
    return np.where(chosen, treatments, np.int8(SEEN))


def ordinary_pieces(vocabulary: Vocabulary, rule: WordMasking) -> Pieces:
    """The vocabulary for masking.

    Raises:
        InputError: it lacks the piece from which random ones are to come.
    """
    first = 0
    if rule.random_from is not None:
        if rule.random_from not in vocabulary.words.pieces:
            raise InputError(
                f"pretrain.word_masking.random_from is {rule.random_from!r}, but {vocabulary.words.source} has "
                "no such piece; name one of its pieces, or none"
            )
        first = vocabulary.words.pieces.index(rule.random_from)
    return Pieces.of(vocabulary.size, vocabulary.mask_id, vocabulary.special_ids, first)
