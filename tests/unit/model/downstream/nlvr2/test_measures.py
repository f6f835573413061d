from __future__ import annotations

import pytest

from model.downstream.nlvr2.measures import Statement, nlvr2_figures


def test_a_sentence_is_consistent_where_every_pair_is_right() -> None:
    """Groups of 4 and 2 pairs with one error in the first."""
    ids = ["dev-7-0-0", "dev-7-1-0", "dev-7-2-0", "dev-7-3-0", "dev-7-0-1", "dev-7-3-1"]
    found = nlvr2_figures([Statement(one, True) for one in ids], {one: one != "dev-7-2-0" for one in ids})
    assert found.figures["accuracy"].value == pytest.approx(5 / 6)
    assert found.figures["consistency"].value == 0.5 and found.figures["consistency"].examples == 2
    assert found.images == 1


def test_sentences_are_told_by_set_and_number() -> None:
    """Not by the pair, and not by their text."""
    statement = Statement("test1-12-3-1", False)
    assert (statement.picture_set, statement.sentence) == ("test1-12", "test1-12-1")
    found = nlvr2_figures([statement, Statement("test1-13-3-1", False)], {"test1-12-3-1": True, "test1-13-3-1": False})
    assert found.figures["consistency"].value == 0.5 and found.images == 2
