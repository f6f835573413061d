"""Captions that are too long, left out."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.command import open_data
from model.data.tokenizer import load_vocabulary
from model.errors import InputError
from model.pretrain import run_pretraining

TEXTS = ["red", "red blue", "red blue cat", "red " * 9, "dog cat bird"]


@pytest.fixture
def world(make_world):
    return make_world([[0], [1], [2]], [(number % 3, text) for number, text in enumerate(TEXTS)])


@pytest.mark.parametrize("cached", [False, True])
def test_captions_over_the_limit_are_left_out_and_the_others_are_whole(world, tiny, tmp_path, caplog, cached):
    source, path = world
    source = source.model_copy(update={"cache_path": str(tmp_path / "cache") if cached else None})
    encoder = tiny.model_copy(update={"max_text_tokens": 5})  # [CLS], three words, [SEP]
    vocabulary = load_vocabulary(path)
    caplog.set_level("INFO")
    for _ in range(2):
        _, captions, tokens = open_data(source, vocabulary, encoder, "drop")
        kept = [number for number in range(5) if number != 3]
        assert captions.texts[:] == [TEXTS[number] for number in kept] and captions.ids[3] == "c4"
        assert captions.image_rows.tolist() == [0, 1, 2, 1] and captions.dropped == 1
        assert [len(tokens[row]) for row in range(len(tokens))] == [3, 4, 5, 5]
        assert "toy/train: 1 of 5 captions have more than 5 tokens and are not learnt from" in caplog.text
    _, cut, tokens = open_data(source, vocabulary, encoder)
    assert len(tokens) == 5 and len(tokens[3]) == 5 and cut.dropped == 0
    assert cut.digest != captions.digest


def test_where_none_is_too_long_the_captions_are_those_of_before(world, tiny):
    source, path = world
    encoder = tiny.model_copy(update={"max_text_tokens": 15})
    whole, same = (open_data(source, load_vocabulary(path), encoder, way)[1] for way in ("cut", "drop"))
    assert same.dropped == 0 and (same.digest, same.ids[:]) == (whole.digest, whole.ids[:])


def test_only_long_captions_are_refused_by_name(world, tiny):
    source, path = world
    table = pq.read_table(source.captions_path).to_pylist()
    pq.write_table(pa.Table.from_pylist([{**row, "text": "red " * 9} for row in table]), source.captions_path)
    with pytest.raises(InputError, match=r"toy/train: all 5 captions have more than encoder\.max_text_tokens=8 tok"):
        open_data(source, load_vocabulary(path), tiny, "drop")


def test_a_run_says_how_many_it_left_out(job, eight_pairs, tmp_path):
    source, _ = eight_pairs
    table = pq.read_table(source.captions_path).to_pylist()
    pq.write_table(pa.Table.from_pylist([*table, {**table[0], "text": "red " * 9}]), source.captions_path)
    assert run_pretraining(job("drop", steps=2, long_texts="drop")) == 0
    assert '"dropped_captions": 1.0' in (tmp_path / "drop" / "metrics.jsonl").read_text()
    assert run_pretraining(job("cut", steps=2)) == 0
    assert "dropped" not in (tmp_path / "cut" / "metrics.jsonl").read_text()
