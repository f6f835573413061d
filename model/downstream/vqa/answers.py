"""VQA's soft accuracy of an answer, as the official evaluator counts it (Antol et al. 2015; VQA v2).

An answer is as right as annotators agree with it: for each of the ten, the matches among the other nine, divided by
three and at most 1; then the mean over the ten. Before answers are compared, both sides come to a normal form, except
where the ten annotators all wrote the same: then the texts as they are have to be equal, so "Yes" is wrong where all
ten say "yes". This looks like an oversight of the evaluator, and every published figure has it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32
"""The evaluator hands re.UNICODE, the number 32, to `sub` as its count."""
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock 'ow's'at oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
    why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
"""Those that the evaluator knows; "its", "hell" and "were" are words, so it leaves them."""


def _spellings() -> dict[str, str]:
    """Contractions by each spelling that lacks one of their apostrophes."""
    found = {
        word[:place] + word[place + 1 :]: word
        for word in _CONTRACTIONS.split()
        for place, character in enumerate(word)
        if character == "'"
    }
    return found | {"somebody'd": "somebodyd"}  # The other way round in the evaluator, and so here.


_SPELLINGS = _spellings()


@lru_cache(maxsize=2**16)
def normal_form(text: str) -> str:
    """Answer without punctuation and articles, in lower case, with digits for number words up to ten."""
    words = [_NUMBERS.get(word, word) for word in _without_marks(text).lower().split()]
    return " ".join(_SPELLINGS.get(word, word) for word in words if word not in _ARTICLES)


def _without_marks(text: str) -> str:
    """A mark beside a space anywhere in the text is left out, any other becomes a space; a full stop is left out."""
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    without = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        without = without.replace(mark, "" if beside_space or has_number else " ")
    return _PERIOD.sub("", without, count=_MOST_PERIODS)


def plain_form(text: str) -> str:
    """Text with spaces for newlines and tabs, and none around it."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def answer_accuracy(answer: str, given: Sequence[str]) -> float:
    """Soft accuracy of an answer beside those that annotators gave, in [0, 1]."""
    answer, given = plain_form(answer), [plain_form(one) for one in given]
    if len(set(given)) > 1:
        answer, given = normal_form(answer), [normal_form(one) for one in given]
    matches = given.count(answer)
    agreeing = matches * min(1.0, (matches - 1) / 3) if matches else 0.0
    return (agreeing + (len(given) - matches) * min(1.0, matches / 3)) / len(given)
