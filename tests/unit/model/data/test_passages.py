import random
from pathlib import Path

import numpy as np
import pytest

from feature_extraction.samples.tars import ShardError
from model.config import TextSource
from model.data.order import Part
from model.data.passages import TextCorpus, load_passages
from model.data.text_shards import TextManifest, TextShardEntry, text_shard_name, write_text_shard
from model.data.tokenizer import load_vocabulary
from model.errors import InputError
from tasks.storage.root import file_digest

SHARD, BATCH, TOKENS, WORDS = 16, 12, 20, 15
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "dog",
    "cat",
    "run",
    "##ning",
    "##s",
    "umb",
    "##rel",
    "##la",
    ".",
]


@pytest.fixture
def vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return load_vocabulary(tmp_path / "vocab.txt")


def passages(count):
    draw = random.Random(0)
    words = ["dog", "dogs", "cat", "running", "umbrellas", ".", "漢", "dog, cat", "zzz"]
    found = [" ".join(draw.choices(words, k=draw.choice([1, 3, 8, 40]))) for _ in range(count)]
    found[3] = "\u200b"  # Nothing is left of it.
    return found


@pytest.fixture
def source(tmp_path):
    return write_corpus(tmp_path, passages(50))


def write_corpus(tmp_path, texts):
    folder = tmp_path / "text"
    folder.mkdir()
    entries = []
    for shard, start in enumerate(range(0, len(texts), SHARD)):
        path = folder / text_shard_name(shard)
        with path.open("wb") as stream:
            count = write_text_shard(stream, texts[start : start + SHARD])
        digest = file_digest(path)
        entries.append(TextShardEntry(name=path.name, passages=count, bytes=digest.bytes, sha256=digest.sha256))
    manifest = TextManifest(fingerprint="0", shard_passages=SHARD, blank=0, shards=tuple(entries))
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return TextSource(text_path=str(folder), name="wiki/train", cache_path=str(tmp_path / "cache"))


def corpus_of(source, vocabulary, **settings):
    defaults = {"seed": 5, "batch_size": BATCH, "max_text_tokens": TOKENS, "min_words": WORDS}
    table = load_passages(source, vocabulary, TOKENS)
    return TextCorpus(table, vocabulary, source.name, **{**defaults, **settings})


def slow_row(texts, passage, vocabulary, tokens=TOKENS, words=WORDS):
    """Whole texts joined, then cut: no table, no shards, words counted by the tokenizer."""
    pieces, count = [], 0
    while count < words:
        encoded = vocabulary.tokenizer.encode(texts[passage % len(texts)], add_special_tokens=False)
        pieces += encoded.ids
        count += len(set(encoded.word_ids))
        passage += 1
    return pieces[:tokens]


@pytest.mark.parametrize(("tokens", "words"), [(20, 15), (7, 15), (20, 2), (13, 64), (1, 1)])
def test_a_row_is_that_of_a_slow_twin(source, vocabulary, tokens, words):
    texts = passages(50)
    table = load_passages(source, vocabulary, tokens)
    corpus = TextCorpus(table, vocabulary, "wiki/train", 0, 1, max_text_tokens=tokens, min_words=words)
    assert len(corpus) == 50
    vocabulary.tokenizer.no_truncation()
    for passage in range(50):
        assert corpus.row(passage).tolist() == slow_row(texts, passage, vocabulary, tokens, words), passage


def test_an_epoch_begins_a_row_with_every_passage_and_orders_differ(source, vocabulary):
    corpus = corpus_of(source, vocabulary)
    turns = np.concatenate([corpus.rows(step).turns for step in range(25)])  # 300 places: six epochs.
    assert turns[:, 0].tolist() == [place // 50 for place in range(300)]
    epochs = turns[:, 1].reshape(6, 50)
    assert (np.sort(epochs, 1) == np.arange(50)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6
    other = corpus_of(source, vocabulary, seed=6)
    assert (other.rows(0).turns != corpus.rows(0).turns).any()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_step_is_the_same_for_any_number_of_processes(source, vocabulary, processes):
    whole = corpus_of(source, vocabulary)
    parts = [corpus_of(source, vocabulary) for _ in range(processes)]  # Each opens the corpus by itself.
    for step in (7, 0, 4):  # In any order: nothing is known but the step.
        expected = whole.rows(step)
        rows = [corpus.rows(step, Part(rank, processes)) for rank, corpus in enumerate(parts)]
        assert np.concatenate([one.turns for one in rows]).tolist() == expected.turns.tolist()
        found = [ids[mask].tolist() for one in rows for ids, mask in zip(one.words.ids, one.words.mask, strict=True)]
        assert found == [whole.row(passage).tolist() for passage in expected.turns[:, 1]]


def test_rows_are_padded_and_say_where_words_begin(source, vocabulary):
    rows = corpus_of(source, vocabulary).rows(3)
    ids, mask = rows.words.ids.numpy(), rows.words.mask.numpy()
    assert ids.shape == mask.shape == rows.numbers.shape and mask.shape[0] == BATCH
    assert not ids[~mask].any() and (rows.numbers[~mask] == -1).all()
    assert mask.sum(1).max() == mask.shape[1] <= TOKENS
    for row, numbers, present in zip(ids, rows.numbers, mask, strict=True):
        expected, word = [], -1
        for piece in row[present]:
            word += not PIECES[piece].startswith("##")
            expected.append(word)
        assert numbers[present].tolist() == expected


def test_pieces_are_kept_and_mapped(source, vocabulary, monkeypatch):
    first = load_passages(source, vocabulary, TOKENS)
    for path in Path(source.text_path).glob("*.parquet"):
        path.unlink()
    again = load_passages(source, vocabulary, TOKENS)
    assert [again[n].tolist() for n in range(50)] == [first[n].tolist() for n in range(50)]
    assert again.shards[0].ids.dtype == np.uint16 and not again.shards[0].ids.flags.owndata
    assert max(len(first[n]) for n in range(50)) == TOKENS
    with pytest.raises(InputError, match=r"there is no .*text-00000.parquet"):
        load_passages(source, vocabulary, TOKENS + 1)


def test_what_was_cut_before_a_kill_is_kept(source, vocabulary, monkeypatch):
    from model.data import passages as room

    made = []
    make = room._tokenize

    def counting(*arguments):
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(*arguments)

    monkeypatch.setattr(room, "_tokenize", counting)
    with pytest.raises(KeyboardInterrupt):
        load_passages(source, vocabulary, TOKENS)
    assert len(load_passages(source, vocabulary, TOKENS)) == 50
    assert len(made) == 3 + 2  # Two of four shards were kept.


def test_without_a_cache_folder_nothing_is_written(source, vocabulary, tmp_path):
    table = load_passages(source.model_copy(update={"cache_path": None}), vocabulary, TOKENS)
    assert len(table) == 50 and not (tmp_path / "cache").exists()


def test_a_corpus_shorter_than_a_row_is_named(tmp_path, vocabulary):
    source = write_corpus(tmp_path, ["dog running .", "cat"])
    with pytest.raises(InputError, match="the text of wiki/train has 4 words, and a row of text takes 15"):
        corpus_of(source, vocabulary)
    assert corpus_of(source, vocabulary, min_words=4).row(1).tolist() == [6, 5, 7, 8, 13]


def test_an_unfinished_or_damaged_corpus_is_named(source, vocabulary):
    manifest = Path(source.text_path, "manifest.json")
    shard = Path(source.text_path, "text-00001.parquet")
    content = shard.read_bytes()
    shard.write_bytes(Path(source.text_path, "text-00003.parquet").read_bytes())
    with pytest.raises(ShardError, match=r"text-00001.parquet has 2 passages, but the manifest says 16"):
        load_passages(source, vocabulary, TOKENS)
    shard.write_bytes(content[:-3])
    with pytest.raises(ShardError, match=r"text-00001.parquet cannot be read"):
        load_passages(source, vocabulary, TOKENS)
    manifest.unlink()
    with pytest.raises(InputError, match=r"there is no .*manifest.json; run unicoder-vl download --text to its end"):
        load_passages(source, vocabulary, TOKENS)


def test_a_corpus_on_an_object_store_reads_the_same(source, vocabulary, bucket):
    for path in Path(source.text_path).iterdir():
        bucket.put(f"text/{path.name}", path.read_bytes())
    remote = source.model_copy(update={"text_path": f"{bucket.uri}/text", "cache_path": None})
    found, expected = load_passages(remote, vocabulary, TOKENS), load_passages(source, vocabulary, TOKENS)
    assert [found[n].tolist() for n in range(50)] == [expected[n].tolist() for n in range(50)]
    absent = remote.model_copy(update={"text_path": f"{bucket.uri}/absent"})
    with pytest.raises(InputError, match=r"there is no .*absent/manifest.json"):
        load_passages(absent, vocabulary, TOKENS)
