import numpy as np

from model.data.matches import Matches
from model.data.tokenizer import TokenTable


def matches(image_rows: list[int], texts: list[int]) -> Matches:
    """Captions of one piece each: caption i reads texts[i]."""
    return Matches(np.array(image_rows), TokenTable(np.array(texts, np.int32), np.arange(len(texts) + 1)))


def test_true_are_all_own_captions_and_those_that_read_like_one_of_them():
    # Image 4 has seven captions; the last caption of image 9 reads like its first.
    of = matches([4] * 7 + [9, 9], [10, 11, 12, 13, 14, 15, 16, 20, 10])
    assert [caption for caption in range(9) if of.is_true(caption, 4)] == [0, 1, 2, 3, 4, 5, 6, 8]
    assert [caption for caption in range(9) if of.is_true(caption, 9)] == [0, 7, 8]


def test_a_text_that_begins_like_another_is_another():
    tokens = TokenTable(np.array([2, 5, 3, 2, 5, 5, 3], np.int32), np.array([0, 3, 7]))
    of = Matches(np.array([0, 1]), tokens)
    assert of.table([0, 1], [0, 1]).tolist() == [[True, False], [False, True]]


def test_the_table_holds_what_one_by_one_says():
    rng = np.random.default_rng(0)
    rows, texts = rng.integers(0, 6, 30), rng.integers(0, 12, 30)
    of = matches(rows.tolist(), texts.tolist())
    images, captions = [0, 2, 3, 5], list(range(0, 30, 2))
    table = of.table(images, captions)
    for i, image in enumerate(images):
        for j, caption in enumerate(captions):
            own = {int(text) for text, row in zip(texts, rows, strict=True) if row == image}
            assert table[i, j] == of.is_true(caption, image) == (int(texts[caption]) in own)


def test_captions_of_an_image_in_any_row_order():
    of = matches([5, 1, 5, 3, 1, 5], list(range(6)))
    assert of.captions_of(5).tolist() == [0, 2, 5]
    assert of.captions_of(1).tolist() == [1, 4]
    assert of.captions_of(2).tolist() == []
