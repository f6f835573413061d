"""UNITER's text databases become captions tables, by the vocabulary that they name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model.config import FeatureSource
from model.data.captions import load_captions
from model.data.store import open_store
from tasks.errors import UserError
from tasks.features.imports.config import ImportConfig, TextSummary
from tasks.features.imports.features import import_features
from tasks.features.imports.texts import import_texts, lost_text, pieces_to_text, read_lengths
from tasks.storage.paths import captions_path
from tasks.storage.root import Root
from tests.uniter import CLASSES, as_map, picture, text_value, write_images, write_lmdb

GOLDEN = Path(__file__).parents[4] / "golden" / "uniter_lmdb"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "dog", "##s", "run", "!", "'", "t", "can"]
META = {"bert": "bert-base-cased", "UNK": 1, "CLS": 2, "SEP": 3, "MASK": 4, "v_range": [5, 13]}
A_DOG, DOGS_RUN, CANT = [5, 6], [6, 7, 8, 9], [12, 10, 11]
TEXTS = {
    "9": (A_DOG, "coco_1.npz"),
    "10": (DOGS_RUN, "coco_1.npz"),
    "8": (CANT, "coco_2.v1.npz"),
}


@pytest.fixture
def root(tmp_path) -> Root:
    return Root(str(tmp_path / "data"))


@pytest.fixture
def images(tmp_path) -> Path:
    values = {name: as_map(picture(number, 3)) for number, name in enumerate(("coco_1.npz", "coco_2.v1.npz"))}
    return write_images(tmp_path / "img" / "all", values)


@pytest.fixture
def pieces(tmp_path) -> str:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return str(folder)


def write_texts(
    folder: Path, values: Mapping[str, bytes], lengths: Mapping[str, int], meta: Mapping[str, object] = META
) -> Path:
    write_lmdb(folder, values)
    (folder / "id2len.json").write_text(json.dumps(lengths))
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def database(folder: Path, **more: tuple[list[int], object]) -> Path:
    texts = TEXTS | more
    values = {text_id: text_value(ids, image) for text_id, (ids, image) in texts.items()}
    return write_texts(folder, values, {text_id: len(ids) for text_id, (ids, _) in texts.items()})


def bring(root: Root, texts: Path, pieces: str | None, images: Path) -> TextSummary:
    return import_texts(root, "coco", "train", texts, pieces, images)


def test_captions_are_the_texts_of_the_pieces_in_the_order_of_the_list(root, tmp_path, pieces, images):
    summary = bring(root, database(tmp_path / "txt.db"), pieces, images)
    assert (summary.texts, summary.lost, lost_text(summary)) == (3, {}, "")
    table = pq.read_table(root.path(captions_path("coco", "train"))).to_pylist()
    assert table == [
        {"caption_id": "9", "image_key": "coco_1", "text": "A dog", "split": "train"},
        {"caption_id": "10", "image_key": "coco_1", "text": "dogs run !", "split": "train"},
        {"caption_id": "8", "image_key": "coco_2_v1", "text": "can ' t", "split": "train"},
    ]
    assert summary.changed == 0


def test_training_finds_the_captions_of_imported_pictures(root, tmp_path, pieces, images):
    bring(root, database(tmp_path / "txt.db"), pieces, images)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"thing {number}\n" for number in range(CLASSES)))
    config = ImportConfig(sources=(images,), detector="butd", vocabulary=names)
    summary = import_features(root, "coco", "train", config)
    path = root.path(captions_path("coco", "train"))
    source = FeatureSource(features_path=summary.folder, captions_path=path, name="coco/train")
    store = open_store(source)
    captions = load_captions(source, store)
    assert [store.keys[row] for row in captions.image_rows] == ["coco_1", "coco_1", "coco_2_v1"]


def test_what_is_no_caption_of_a_picture_is_counted_and_named(root, tmp_path, pieces, images):
    texts = database(
        tmp_path / "txt.db",
        gone=(A_DOG, "coco_9.npz"),
        two=(A_DOG, ["coco_1.npz", "coco_7.npz"]),
        foreign=([99], "coco_1.npz"),
    )
    write_lmdb(
        texts, {"unlisted": text_value(A_DOG, "coco_1.npz"), "9": b"no frame", "10": text_value([5], "coco_1.npz")}
    )
    lengths = json.loads((texts / "id2len.json").read_text()) | {"absent": 3}
    (texts / "id2len.json").write_text(json.dumps(lengths))
    summary = bring(root, texts, pieces, images)
    assert summary.texts == 1
    assert summary.lost == {"no picture": 1, "two pictures": 1, "damaged": 3, "absent": 1, "unlisted": 1}
    assert summary.examples["no picture"] == ("coco_9.npz", "coco_7.npz")
    assert summary.examples["unlisted"] == ("unlisted",)
    said = lost_text(summary)
    for part in (
        "1 texts are of a picture that the image database lacks, such as coco_9.npz, coco_7.npz",
        "9 (no lz4 frame",
        "10 (1 pieces, but id2len.json says 4)",
        "foreign (its input_ids are no ids of the vocabulary)",
    ):
        assert part in said


def test_statements_of_two_pictures_are_refused_with_what_is_missing(root, tmp_path):
    pieces = [*(f"piece{number}" for number in range(28_996))]
    pieces[0], pieces[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    images = GOLDEN / "feat_th0.2_max100_min10_compressed"
    with pytest.raises(
        UserError, match=r"6 texts are of two pictures.*lacks pictures of them, such as nlvr2_dev-0-0-im"
    ):
        bring(root, GOLDEN / "nlvr2_dev.db", str(tmp_path / "vocab.txt"), images)
    assert not root.exists(captions_path("coco", "train"))


def test_the_vocabulary_has_to_be_given_and_to_be_the_databases(root, tmp_path, pieces, images):
    texts = database(tmp_path / "txt.db")
    with pytest.raises(
        UserError, match=r"holds word pieces of bert-base-cased; give its vocab\.txt or folder with --word"
    ):
        bring(root, texts, None, images)
    (tmp_path / "other.txt").write_text("\n".join([*PIECES[:1], "extra", *PIECES[1:]]) + "\n")
    with pytest.raises(
        UserError, match=r"has 14 pieces and is not .*bert-base-cased with \[UNK\] as 1 and .* 13 pieces"
    ):
        bring(root, texts, str(tmp_path / "other.txt"), images)


def test_pieces_that_come_back_otherwise_are_counted(root, tmp_path, pieces, images):
    texts = database(tmp_path / "txt.db", odd=([7, 6], "coco_1.npz"))  # ##s cannot begin a text
    summary = bring(root, texts, pieces, images)
    assert (summary.texts, summary.changed) == (4, 1)


def test_a_second_import_does_nothing_and_other_texts_are_imported_anew(root, tmp_path, pieces, images):
    texts = database(tmp_path / "txt.db")
    first = bring(root, texts, pieces, images)
    path = Path(root.path(captions_path("coco", "train")))
    before = path.stat().st_mtime_ns
    assert bring(root, texts, pieces, images) == first
    assert path.stat().st_mtime_ns == before
    assert bring(root, database(texts, more=(A_DOG, "coco_1.npz")), pieces, images).texts == 4


@pytest.mark.parametrize("name", ["id2len.json", "meta.json", "data.mdb"])
def test_a_missing_file_is_named(root, tmp_path, pieces, images, name):
    texts = database(tmp_path / "txt.db")
    (texts / name).unlink()
    with pytest.raises(UserError, match=f"{name} is not there"):
        bring(root, texts, pieces, images)


def test_a_downloaded_split_keeps_its_own_captions(root, tmp_path, pieces, images):
    root.publish_bytes("datasets/coco/train/manifest.parquet", b"")
    with pytest.raises(UserError, match="has rows under"):
        bring(root, database(tmp_path / "txt.db"), pieces, images)


def test_a_list_is_read_piece_by_piece_and_a_cut_one_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.features.imports.texts._CHUNK", 40)
    known = {f'a "quoted" \\ name {number} ü': number for number in range(50)}
    path = tmp_path / "id2len.json"
    for indent in (None, 1):
        path.write_text(json.dumps(known, indent=indent))
        assert dict(read_lengths(path)) == known
    path.write_text("{}")
    assert list(read_lengths(path)) == []
    for content in (json.dumps(known)[:-9], '{"a": "b"}', "[1]", ""):
        path.write_text(content)
        with pytest.raises(UserError, match="no whole map"):
            list(read_lengths(path))


def test_pieces_make_words():
    assert pieces_to_text(["un", "##happi", "##ly", "a", "-", "b"]) == "unhappily a - b"
    assert pieces_to_text([]) == ""
