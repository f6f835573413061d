"""Agreement of a picture's labels with its captions, word by word.

Means and histograms look alike with a wrong vocabulary or colour order; this does not. The words of a picture's labels
should occur in its own captions more often than in those of other pictures, whatever the language of the web is like.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from tasks.records import Record

_OTHERS = 8
"""Other pictures whose captions each picture is compared with."""
_FEWEST_EXPECTED = 5.0
"""A word is judged where so many captions of its pictures would hold it by chance, and as many would not."""
_LEAST_ODDS = 1.2
_FEW_WORDS = 0.25
_MOST_WORDS = 24


class WordAgreement(Record):
    """One word of label names: how often captions hold it."""

    word: str
    images: int = Field(description="pictures with a region of such a label")
    own: float = Field(description="share of these whose own captions hold the word")
    others: float = Field(description="the same with captions of other pictures: what chance gives")

    @property
    def times(self) -> float | None:
        """The ratio to what chance gives; None where chance gives nothing."""
        return self.own / self.others if self.others else None

    @property
    def is_judged(self) -> bool:
        """True where chance alone would give enough captions with the word, and enough without."""
        return min(self.others, 1 - self.others) * self.images >= _FEWEST_EXPECTED

    @property
    def is_wrong(self) -> bool:
        """True where the word is no more likely in its pictures' captions than in any."""
        return self.is_judged and odds_ratio(self.own, self.others) < _LEAST_ODDS


class CaptionAgreement(Record):
    """All words of label names together, and the most frequent ones singly."""

    images: int = Field(description="pictures with captions and regions")
    own: float
    others: float
    words: tuple[WordAgreement, ...]

    @property
    def wrong_words(self) -> tuple[str, ...]:
        """Words that do not fit, if they are a quarter or more; captions may just not mention a few."""
        judged = sum(word.is_judged for word in self.words)
        wrong = tuple(word.word for word in self.words if word.is_wrong)
        return wrong if len(wrong) > 1 and len(wrong) >= _FEW_WORDS * judged else ()


def caption_agreement(
    labels: Mapping[str, Sequence[int]], captions: Mapping[str, Sequence[str]], names: Sequence[str]
) -> CaptionAgreement | None:
    """Compare labels with captions, by word; plural and singular count as one.

    Args:
        labels: labels of each image's regions, by key.
        captions: of these images, by key; those without are passed over.
        names: of the labels, in class order.

    Returns:
        None where fewer than two images have both.
    """
    label_words = [_words(name) for name in names]
    keys = [key for key in labels if labels[key] and captions.get(key)]
    if len(keys) < 2:
        return None
    # Compared with those that follow in a fixed shuffle: neighbours in a list from the web may be alike.
    order = np.random.default_rng(0).permutation(len(keys))
    keys = [keys[place] for place in order]
    texts = [_words(" ".join(captions[key])) for key in keys]
    distances = range(1, min(len(keys), _OTHERS + 1))
    images: Counter[str] = Counter()
    own: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for place, key in enumerate(keys):
        words = set().union(*(label_words[label] for label in set(labels[key])))
        images.update(words)
        own.update(words & texts[place])
        for distance in distances:
            others.update(words & texts[(place + distance) % len(keys)])
    total = max(1, images.total())
    return CaptionAgreement(
        images=len(keys),
        own=own.total() / total,
        others=others.total() / total / len(distances),
        words=tuple(
            WordAgreement(word=word, images=count, own=own[word] / count, others=others[word] / count / len(distances))
            for word, count in sorted(images.items(), key=lambda item: (-item[1], item[0]))[:_MOST_WORDS]
        ),
    )


def odds_ratio(share: float, chance: float) -> float:
    """Odds of one share over those of another: 1 where they are equal, more where the first is larger."""
    against = chance * (1 - share)
    return share * (1 - chance) / against if against else float("inf")


def _words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"[^\W\d_]{3,}", text.lower())}
