from __future__ import annotations

import pytest

from tasks.features.inspection.caption_agreement import caption_agreement

NAMES = ("red star", "red ring", "blue star", "blue ring")


def test_words_are_counted_in_own_and_other_captions() -> None:
    labels = {"a": (0, 0), "b": (3,), "c": (2,)}
    captions = {"a": ["Red stars!"], "b": ["a ring"], "c": ["something", "a blue thing"]}
    found = caption_agreement(labels, captions, NAMES)
    assert found is not None
    # Of six words (red star, blue ring, blue star) four are told: red, star; ring; blue.
    assert (found.images, found.own) == (3, pytest.approx(4 / 6))
    # Of the twelve with the two others each: b's blue in c, c's star in a.
    assert found.others == pytest.approx(2 / 12)
    words = {word.word: (word.images, word.own, word.others) for word in found.words}
    assert words == {"blue": (2, 0.5, 0.25), "star": (2, 0.5, 0.25), "red": (1, 1, 0), "ring": (1, 1, 0)}


def test_swapped_colours_are_told_by_word() -> None:
    labels = {str(number): (number % 4,) for number in range(400)}
    truth = {key: [NAMES[label]] for key, (label,) in labels.items()}
    found = caption_agreement(labels, truth, NAMES)
    assert found is not None and found.wrong_words == ()
    swapped = caption_agreement(labels, truth, ("blue star", "blue ring", "red star", "red ring"))
    assert swapped is not None and swapped.wrong_words == ("blue", "red")


def test_a_few_words_that_captions_pass_over_are_no_mistake() -> None:
    names = ("head", *(f"thing{letter}" for letter in "abcdefg"))
    labels = {str(number): (0, 1 + number % 7) for number in range(700)}
    captions = {key: [f"{names[two]} {'head' if int(key) % 3 == 0 else ''}"] for key, (_, two) in labels.items()}
    found = caption_agreement(labels, captions, names)
    assert found is not None
    assert [word.word for word in found.words if word.is_wrong] == ["head"]
    assert found.wrong_words == ()


@pytest.mark.parametrize("captions", [{}, {"a": ["red"]}, {"a": ["red"], "b": []}])
def test_nothing_is_said_of_fewer_than_two_captioned_pictures(captions: dict[str, list[str]]) -> None:
    assert caption_agreement({"a": (0,), "b": (1,), "c": ()}, captions, NAMES) is None
