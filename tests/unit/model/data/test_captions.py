from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_extraction.samples.tars import ShardError
from model.config import FeatureSource
from model.data.captions import load_captions
from model.data.feed import prefetch
from model.data.store import FeatureStore, LostShardError, open_store
from model.data.tokenizer import load_tokens, load_vocabulary, tokenize
from model.errors import InputError
from tests.toy import make_sample, write_feature_set


def test_captions_of_images_without_regions_are_left_out(make_world):
    source, _ = make_world([[0], [1]], [(0, "red"), (1, "blue"), (0, "cat")])
    table = pq.read_table(source.captions_path).to_pylist()
    table[1]["image_key"] = "999999999"
    pq.write_table(pa.Table.from_pylist(table), source.captions_path)
    captions = load_captions(source, FeatureStore(source.features_path))
    assert captions.ids[:] == ["c0", "c2"]
    assert captions.texts[:] == ["red", "cat"]
    assert captions.texts[1] == "cat"
    assert captions.image_rows.tolist() == [0, 0]


def test_no_caption_with_an_image_is_an_error(make_world):
    source, _ = make_world([[0]], [(0, "red")])
    import pyarrow as pa

    rows = [{**row, "image_key": "x"} for row in pq.read_table(source.captions_path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), source.captions_path)
    with pytest.raises(ValueError, match="toy/train: none of 1 captions"):
        load_captions(
            FeatureSource(features_path=source.features_path, captions_path=source.captions_path, name="toy/train"),
            FeatureStore(source.features_path),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["image_key"]), "has no column image_key"),
        (lambda table: table.drop_columns(["text"]), "has no column text"),
        (lambda table: table.set_column(1, "image_key", pa.array([0, 1])), "column image_key holds int64, not strings"),
        (lambda table: table.set_column(2, "text", pa.array(["red", None])), r"column text has 1 empty cells \(null\)"),
    ],
)
def test_captions_without_what_is_needed_are_refused_by_column(make_world, change, message):
    source, _ = make_world([[0], [1]], [(0, "red"), (1, "blue")])
    pq.write_table(change(pq.read_table(source.captions_path)), source.captions_path)
    with pytest.raises(InputError, match=rf"captions\.parquet.* {message}"):
        load_captions(source, FeatureStore(source.features_path)).texts[0]


def test_captions_that_are_no_parquet_or_not_there_are_refused_by_name(make_world):
    source, _ = make_world([[0], [1]], [(0, "red"), (1, "blue")])
    path = Path(source.captions_path)
    whole = path.read_bytes()
    for content in (b"", b"caption", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"captions\.parquet: column image_key of the captions cannot be read"):
            load_captions(source, FeatureStore(source.features_path))
    path.unlink()
    with pytest.raises(InputError, match=r"toy/train: its captions .*captions\.parquet are not a file"):
        load_captions(source, FeatureStore(source.features_path))


def test_prefetch_keeps_the_order_and_passes_errors_on():
    assert list(prefetch(lambda step: step * step, 2, 5)) == [4, 9, 16]

    def broken(step: int) -> int:
        if step == 3:
            raise ShardError("shard 3 is damaged")
        return step

    seen = []
    with pytest.raises(ShardError, match="shard 3"):
        seen.extend(iter(prefetch(broken, 2, 5)))


def test_a_batch_that_lost_a_shard_is_made_again():
    lost = [3, 3, 4]

    def make(step: int) -> int:
        if lost and lost[0] == step:
            lost.pop(0)
            raise LostShardError("regions-00001.tar is cut")
        return step

    assert list(prefetch(make, 2, 6)) == [2, 3, 4, 5]
    assert lost == []


def test_prefetch_makes_no_more_than_it_is_told_to():
    made = []

    def make(step: int) -> int:
        made.append(step)
        return step

    ready = prefetch(make, 0, 100, ahead=2)
    assert next(ready) == 0
    ready.close()
    assert len(made) <= 3


def test_cached_captions_and_tokens_are_those_made_directly(eight_pairs, tmp_path):
    source, path = eight_pairs
    vocabulary = load_vocabulary(path)
    table = pq.read_table(source.captions_path).to_pylist()
    table = [table[5], table[0], {**table[1], "image_key": "nobody"}, *table[1:]]
    pq.write_table(pa.Table.from_pylist(table), source.captions_path)
    cached = source.model_copy(update={"cache_path": str(tmp_path / "cache")})
    row_of = {key: row for row, key in enumerate(FeatureStore(source.features_path).keys)}
    kept = [caption for caption in table if caption["image_key"] in row_of]
    # None keeps nothing; the first opening with a cache writes it, the second reads it.
    for way in (source, cached, cached):
        store = open_store(way)
        captions = load_captions(way, store)
        tokens = load_tokens(vocabulary, captions, 6)
        direct = tokenize(vocabulary, [caption["text"] for caption in kept], 6)
        assert captions.ids[:] == [caption["caption_id"] for caption in kept]
        assert captions.texts[:] == [caption["text"] for caption in kept]
        assert captions.image_rows.tolist() == [row_of[caption["image_key"]] for caption in kept]
        assert [row.tolist() for row in map(tokens.__getitem__, range(len(tokens)))] == [
            row.tolist() for row in map(direct.__getitem__, range(len(direct)))
        ]
    kinds = sorted(file.name.partition("-")[0] for file in (tmp_path / "cache").glob("*.idx"))
    assert kinds == ["captions", "keys", "tokens"]


@pytest.mark.parametrize("change", ["captions", "vocabulary", "length", "features"])
def test_other_data_is_never_read_from_the_cache_of_this_one(eight_pairs, tmp_path, change):
    source, path = eight_pairs
    source = source.model_copy(update={"cache_path": str(tmp_path / "cache")})

    def opened(length):
        store = open_store(source)
        captions = load_captions(source, store)
        tokens = load_tokens(load_vocabulary(path), captions, length)
        return [store.keys[row] for row in captions.image_rows], [tokens[row].tolist() for row in range(len(tokens))]

    keys, tokens = opened(8)
    if change == "captions":
        table = pq.read_table(source.captions_path).to_pylist()
        pq.write_table(pa.Table.from_pylist(table[::-1]), source.captions_path)
        assert opened(8) == (keys[::-1], tokens[::-1])
    elif change == "vocabulary":
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:5], "zebra", *lines[5:]]) + "\n")
        assert opened(8) == (keys, [[2, *(piece + 1 for piece in row[1:-1]), 3] for row in tokens])
    elif change == "length":
        assert opened(4) == (keys, [[*row[:3], 3] for row in tokens])
    else:
        labels = [make_sample(key, [0], 24, 0) for key in sorted(keys, reverse=True)]
        write_feature_set(Path(source.features_path), labels, 3, 5, 24)
        assert opened(8) == (keys, tokens)
        assert open_store(source).keys[:] == sorted(keys, reverse=True)
