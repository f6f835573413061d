"""Search ranks as a plain loop over all pairs would, and walks from every hit back to its caption and its file."""

from __future__ import annotations

import logging
import os
import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tasks.search.search
from feature_extraction.samples.regions import decode_regions
from model.data.batch import pad_words
from model.data.store import FeatureStore
from model.data.tokenizer import tokenize
from model.downstream.retrieval.config import ScoringConfig, Shortlist
from model.downstream.retrieval.search import Ranker, read_text
from model.training.checkpoint import load_model
from tasks.errors import UserError
from tasks.features.lookup import read_captions
from tasks.search.defaults import newest_run
from tasks.search.page import search_page
from tasks.search.query_picture import DetectorFiles
from tasks.search.search import Hit, Search, open_search
from tasks.storage.paths import feature_manifest_path
from tasks.storage.root import Root
from tests.searchable import DATASET, ENCODER, NAME, PICTURES, RUN, SPLIT, add_run, make_searchable

KEYS = [f"{2 * number:09d}" for number in range(PICTURES)]
"""Two rows a picture."""
SECOND = "a red circle"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return make_searchable(tmp_path_factory.mktemp("searchable"))


@pytest.fixture(scope="module")
def search(root: Root) -> Search:
    return open_search(root, RUN, NAME)


@pytest.fixture
def copy(root: Root, tmp_path: Path) -> Root:
    """A root that a test may change."""
    shutil.copytree(root.uri, tmp_path / "root")
    return Root(str(tmp_path / "root"))


def store_of(search: Search) -> FeatureStore:
    extractor = search._store.manifest.extractor
    return FeatureStore(Path(search.root.path(feature_manifest_path(extractor, DATASET, SPLIT))).parent)


def plain_score(search: Search, key: str, text: str) -> float:
    """One pair through the model's own `score`, read anew."""
    model, vocabulary = load_model(search.checkpoint.uri)
    store = store_of(search)
    regions = store.read([list(store.keys).index(key)], ENCODER.max_regions)
    with torch.inference_mode():
        return float(model.score(pad_words([tokenize(vocabulary, [text], 16)[0]], 0), regions))


def captions_of(search: Search) -> dict[str, list[str]]:
    return read_captions(search.root, DATASET, SPLIT, KEYS)


def stored_file(search: Search, tmp_path: Path, key: str) -> Path:
    """A picture's stored JPEG as a file of its own."""
    jpeg = search.pictures.jpeg(key)
    assert jpeg is not None
    path = tmp_path / "stored.jpg"
    path.write_bytes(jpeg)
    return path


# --- ranking --------------------------------------------------------------------------------------------------------


def test_pictures_are_ranked_as_by_a_plain_loop(search: Search) -> None:
    text = "a blue square and a green star"
    expected = sorted((-plain_score(search, key, text), key) for key in KEYS)
    hits = search.images(text, top=PICTURES)
    assert [hit.key for hit in hits] == [key for _, key in expected]
    assert [hit.score for hit in hits] == pytest.approx([-score for score, _ in expected], abs=1e-5)
    assert len({round(hit.score, 4) for hit in hits}) == PICTURES  # else the order would prove nothing
    assert search.images(text, top=3) == hits[:3]


def test_captions_are_ranked_as_by_a_plain_loop(search: Search) -> None:
    texts = {text: key for key, found in reversed(captions_of(search).items()) for text in found}
    expected = sorted((-plain_score(search, KEYS[3], text), text) for text in texts)
    hits = search.captions(KEYS[3], top=100)
    assert [hit.caption for hit in hits] == [text for _, text in expected]
    assert [hit.score for hit in hits] == pytest.approx([-score for score, _ in expected], abs=1e-5)
    assert [hit.key for hit in hits] == [texts[hit.caption] for hit in hits]  # of equal texts the first one's picture


def test_hits_carry_first_caption_file_and_picture(search: Search, root: Root) -> None:
    captions = captions_of(search)
    pictures = Path(root.uri).parent / "pictures"
    for hit in search.images("a blue square", top=PICTURES):
        assert hit.caption == captions[hit.key][0] != SECOND
        assert hit.path == f"{pictures}/{int(hit.key) // 2}.jpg"
        with Image.open(hit.path) as expected:
            assert np.array_equal(np.array(hit.picture()), np.array(expected))


def test_of_equal_scores_the_order_is_the_splits(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        search._ranker._scorer, "score", lambda images, texts, on_pairs: np.zeros((len(images.mask), 1))
    )
    assert [hit.key for hit in search.images("a star", top=4)] == KEYS[:4]


def test_pictures_are_read_a_part_at_a_time(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search.images("a star", top=PICTURES)
    read, most = search._store.read, []
    monkeypatch.setattr("model.downstream.retrieval.search._IMAGES_AT_ONCE", 3)
    monkeypatch.setattr("model.downstream.retrieval.search._CAPTIONS_AT_ONCE", 5)
    monkeypatch.setattr(search._store, "read", lambda rows, regions: (most.append(len(rows)), read(rows, regions))[1])
    done: list[tuple[int, int]] = []
    parts = search.images("a star", top=PICTURES, on_pairs=lambda *pairs: done.append(pairs))
    assert most == [3, 3, 2] and done[-1] == (PICTURES, PICTURES)
    assert [hit.key for hit in parts] == [hit.key for hit in whole]
    assert [hit.score for hit in parts] == pytest.approx([hit.score for hit in whole], abs=1e-5)
    assert len(search.captions(KEYS[0], top=100)) == PICTURES + 1


def test_shortlist_scores_the_best_of_a_pass_over_few_regions_exactly(search: Search) -> None:
    config = ScoringConfig(shortlist=Shortlist.model_construct(size=4, regions=1))
    parts = (search._ranker._vocabulary, search._store, search._captions, config, torch.device("cpu"))
    model, _ = load_model(search.checkpoint.uri)
    short = Ranker(model, *parts)
    text = short.read("a blue square and a green star")
    done: list[tuple[int, int]] = []
    ranking = short.images(text, lambda *pairs: done.append(pairs))
    with torch.inference_mode():
        few = model.score(pad_words([text.tokens] * PICTURES, 0), search._store.read(range(PICTURES), 1)).numpy()
    assert sorted(ranking.rows.tolist()) == sorted(np.argsort(-few)[:4].tolist())
    exact = {hit.key: hit.score for hit in search.images("a blue square and a green star", top=PICTURES)}
    assert ranking.scores.tolist() == pytest.approx([exact[KEYS[row]] for row in ranking.rows], abs=1e-5)
    assert ranking.scores.tolist() == sorted(ranking.scores, reverse=True)
    assert done[-1] == (PICTURES + 4, PICTURES + 4)
    assert short.shortens(5) and not short.shortens(4)  # four candidates are all scored


def test_search_says_what_a_shortlist_leaves_out(root: Root) -> None:
    # The model reads four regions, so a first pass over ten would leave nothing out; neither would one over few texts.
    narrow = open_search(root, RUN, NAME, scoring=ScoringConfig(shortlist=Shortlist(size=10, regions=2)))
    assert narrow.approximate(100) == "only the best 10 of a first pass over 2 regions were scored exactly"
    assert narrow.approximate(10) is None
    wide = open_search(root, RUN, NAME, scoring=ScoringConfig(shortlist=Shortlist(size=10, regions=10)))
    assert wide.approximate(100) is None
    with pytest.raises(UserError, match="a shortlist of 10 has fewer than the 11 hits asked for"):
        narrow.captions(KEYS[0], top=11)


# --- the query ------------------------------------------------------------------------------------------------------


def test_unknown_words_are_named_and_the_rest_is_searched(search: Search, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tasks.search"):
        hits = search.images("a red zebra and a Beach, left")
    assert "does not know: zebra, Beach, ," in caplog.text
    assert len(hits) == 5
    caplog.clear()
    search.images("a red circle")
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "the query '' has no word"), (" \n", "has no word"), ("zebra!", "knows no word of the query 'zebra!'")],
)
def test_text_without_a_known_word_is_refused(search: Search, text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        search.images(text)


def test_long_text_is_cut_as_in_training_and_said(search: Search, caplog: pytest.LogCaptureFixture) -> None:
    text = "a red circle and " * 4 + "a star"  # 16 pieces are read, [CLS] and [SEP] among them
    with caplog.at_level(logging.WARNING, "tasks.search"):
        hits = search.images(text)
    assert "longer than the model reads, and is cut before: circle and a star" in caplog.text
    assert hits == search.images("a red circle and " * 3 + "a red")
    _, vocabulary = load_model(search.checkpoint.uri)
    assert read_text(vocabulary, text, 16).tokens.tolist() == tokenize(vocabulary, [text], 16)[0].tolist()


def test_a_stored_picture_scores_the_same_as_its_file(search: Search, tmp_path: Path) -> None:
    for key in (KEYS[0], KEYS[4]):
        jpeg, path = search.pictures.jpeg(key), stored_file(search, tmp_path, key)
        query = search.read_picture(path)
        assert query.jpeg == jpeg
        stored, found = search.pictures.regions(key), query.regions
        assert found.labels.tolist() == stored.labels.tolist() and found.size == stored.size
        assert np.abs(found.boxes - stored.boxes).max() < 1e-3
        by_key, by_file = search.captions(key, top=100), search.captions(path, top=100)
        scores = {hit.caption: hit.score for hit in by_key}
        assert [hit.score for hit in by_file] == pytest.approx([scores[hit.caption] for hit in by_file], abs=1e-4)


def test_pictures_of_other_forms_are_set_upright(search: Search, tmp_path: Path) -> None:
    jpeg = search.pictures.jpeg(KEYS[1])
    assert jpeg is not None
    upright = Image.open(stored_file(search, tmp_path, KEYS[1]))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    found, expected = search.read_picture(turned).regions, search.pictures.regions(KEYS[1])
    # A PNG is encoded anew as JPEG, so regions move by a little; upright, they are where they were.
    assert found.labels[0] == expected.labels[0]
    assert np.abs(found.boxes[0] - expected.boxes[0]).max() < 3


def test_what_is_no_picture_is_told(search: Search, tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture")
    with pytest.raises(UserError, match=r"notes\.jpg is no picture to search with \(unknown content\)"):
        search.captions(text)
    for absent in (str(tmp_path / "absent.jpg"), "000000001", str(tmp_path)):
        with pytest.raises(UserError, match="neither a picture file nor the key of a picture of drawn/test"):
            search.captions(absent)


def test_a_picture_that_the_detector_cannot_resize_is_told(search: Search, tmp_path: Path) -> None:
    Image.new("RGB", (32, 20_000), "teal").save(tmp_path / "thread.png")
    with pytest.raises(UserError, match=r"thread\.png is no picture to search with \(RuntimeError: Input and output"):
        search.read_picture(tmp_path / "thread.png")


def test_detector_of_other_weights_is_refused(root: Root, tmp_path: Path, search: Search) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other weights")
    asked = open_search(root, RUN, NAME, detector_files=DetectorFiles(weights=str(other)))
    with pytest.raises(UserError, match=r"other\.safetensors is not what these features were extracted with"):
        asked.captions(stored_file(search, tmp_path, KEYS[0]))


def test_features_that_were_imported_have_no_detector(copy: Root, search: Search, tmp_path: Path) -> None:
    change_manifest(copy, search, extractor_details={"imported_from": "lxmert"})
    asked = open_search(copy, RUN, NAME)
    assert asked.captions(KEYS[0]) == search.captions(KEYS[0])
    with pytest.raises(UserError, match="these features were imported, so no detector here"):
        asked.captions(stored_file(search, tmp_path, KEYS[0]))


def test_weights_known_by_digest_only_are_to_be_named(copy: Root, search: Search, tmp_path: Path) -> None:
    details = search._store.manifest.extractor_details
    change_manifest(copy, search, extractor_details={**details, "weights_sha256": "0" * 64})
    with pytest.raises(UserError, match="name the file with --detector-weights FILE"):
        open_search(copy, RUN, NAME).captions(stored_file(search, tmp_path, KEYS[0]))


def test_other_versions_of_the_detectors_packages_are_warned_of(
    copy: Root, search: Search, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    details = search._store.manifest.extractor_details
    change_manifest(copy, search, extractor_details={**details, "versions": {"torch": "1.0"}})
    with caplog.at_level(logging.WARNING, "tasks.search"):
        open_search(copy, RUN, NAME).captions(stored_file(search, tmp_path, KEYS[0]))
    assert "those of the features were with torch 1.0" in caplog.text


def change_manifest(root: Root, search: Search, **changes: object) -> None:
    manifest = search._store.manifest
    path = feature_manifest_path(manifest.extractor, DATASET, SPLIT)
    root.publish_model(path, manifest.model_copy(update=changes))


# --- the run and the split ------------------------------------------------------------------------------------------


def test_three_lines_of_the_docstring_work_in_a_notebook(root: Root) -> None:
    documented = tasks.search.search.__doc__ or ""
    lines = textwrap.dedent("\n".join(line for line in documented.splitlines() if line.startswith("    ")))
    assert len(lines.splitlines()) == 3
    for theirs, ours in (("data", root.uri), ("finetune-0123456789ab", RUN), ("retrieval/test", NAME)):
        assert f'"{theirs}"' in lines
        lines = lines.replace(f'"{theirs}"', repr(ours))
    names: dict[str, object] = {}
    *before, last = lines.splitlines()
    exec("\n".join(before), names)
    hits = eval(last, names)
    assert len(hits) == 5 and all(isinstance(hit, Hit) for hit in hits)
    assert re.match(r"Hit\(key='\d{9}', score=-?\d+\.\d+, caption='a .+', path='.+\.jpg'\)$", repr(hits[0]))


def test_the_only_run_and_the_only_split_need_no_name(root: Root) -> None:
    search = open_search(root)
    assert (search.run.name, search.dataset, search.split) == (RUN, DATASET, SPLIT)
    assert (search.num_images, search.num_captions, search.checkpoint.step) == (PICTURES, 2 * PICTURES, 7)


def test_of_several_runs_the_newest_complete_one_is_taken_and_said(
    copy: Root, search: Search, caplog: pytest.LogCaptureFixture
) -> None:
    vocabulary = Path(search.checkpoint.uri) / "vocab.txt"
    for name in ("finetune-cc33", "finetune-bb22", "finetune-dd44"):
        add_run(copy, name, vocabulary, search._store.manifest.extractor)
    Path(copy.path("runs/finetune-dd44/final.json")).unlink()
    for age, name in enumerate(("finetune-bb22", "finetune-cc33", RUN)):
        os.utime(copy.path(f"runs/{name}/final.json"), (1e9 - age, 1e9 - age))
    with caplog.at_level(logging.INFO, "tasks.search"):
        assert newest_run(copy).name == "finetune-bb22"
    assert "finetune-bb22 is taken, the newest complete one of 3 finetuning runs (task-specific)" in caplog.text
    job = Path(copy.path("runs/finetune-cc33/job.json"))
    job.write_text(job.read_text().replace('"start": "scratch"', '"start": "pretrained"'))
    assert newest_run(copy).name == "finetune-cc33"  # older, but pretrained


def test_what_is_not_there_is_told_with_what_is(root: Root, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no run 'absent' .* there are {RUN}"):
        open_search(root, "absent", NAME)
    with pytest.raises(UserError, match=f"drawn/val has no finished features .* such of {NAME}"):
        open_search(root, RUN, "drawn/val")
    with pytest.raises(UserError, match="'drawn' is not DATASET/SPLIT"):
        open_search(root, RUN, "drawn")
    with pytest.raises(
        UserError, match="the checkpoint of finetune-aa11 at step 8 is not there: it has checkpoints of step 7"
    ):
        open_search(root, RUN, NAME, checkpoint=8)
    with pytest.raises(UserError, match="no finetuning run is complete"):
        open_search(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="ask for at least one hit"):
        open_search(root, RUN, NAME).images("a star", top=0)


def test_several_splits_are_to_be_chosen_from(copy: Root) -> None:
    folder = Path(copy.path("features")) / str(copy.names("features")[0])
    shutil.copytree(folder / DATASET / SPLIT, folder / DATASET / "val")
    with pytest.raises(UserError, match=f"has to have features of: choose one of {NAME}, drawn/val"):
        open_search(copy, RUN)


def test_run_and_features_that_do_not_fit_are_refused(copy: Root, search: Search) -> None:
    vocabulary = Path(search.checkpoint.uri) / "vocab.txt"
    add_run(copy, "finetune-bb22", vocabulary, "f" * 64)
    with pytest.raises(UserError, match=r"no finished features .* \(ffffffffffff\); there are none"):
        open_search(copy, "finetune-bb22", NAME)
    add_run(copy, "finetune-cc33", vocabulary, search._store.manifest.extractor, num_labels=3)
    with pytest.raises(UserError, match="finetune-cc33 reads 128-wide features and 3 labels"):
        open_search(copy, "finetune-cc33", NAME)


def test_pictures_that_are_gone_are_still_found_by_their_regions(copy: Root, search: Search) -> None:
    shutil.rmtree(copy.path(f"datasets/{DATASET}/{SPLIT}/images"))
    Path(copy.path(f"datasets/{DATASET}/{SPLIT}/manifest.parquet")).unlink()
    asked = open_search(copy, RUN, NAME)
    hits = asked.images("a star")
    assert [hit.key for hit in hits] == [hit.key for hit in search.images("a star")]
    shard = int(hits[0].key) // 6
    assert hits[0].path == copy.path(f"datasets/{DATASET}/{SPLIT}/images/images-{shard:05d}.tar/{hits[0].key}.jpg")
    with pytest.raises(UserError, match="is not there any more"):
        hits[0].picture()
    assert "not on this disk" in search_page(asked, "a star", hits)


# --- the page -------------------------------------------------------------------------------------------------------


def test_page_of_a_text_shows_its_pictures_and_escapes_what_comes_from_outside(search: Search) -> None:
    hits = search.images("a star", top=2)
    evil = Hit(hits[0].key, 1.5, "<script>alert(1)</script>", "/a&b/<i>.jpg", search.pictures.jpeg)
    page = search_page(search, 'a "<b>star</b>"', [evil, hits[1]])
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page
    assert "<b>star" not in page and "&lt;b&gt;star" in page
    assert "/a&amp;b/&lt;i&gt;.jpg" in page
    assert page.count('href="data:image/jpeg;base64,') == 2 and 'class="region"' in page
    assert f"The best of {PICTURES} pictures of {NAME}." in page and RUN in page and "step 7" in page


def test_page_of_a_picture_shows_it_with_its_regions_and_the_captions(search: Search, tmp_path: Path) -> None:
    query = search.read_picture(stored_file(search, tmp_path, KEYS[2]))
    hits = search.captions(query, top=3)
    page = search_page(search, query, hits)
    assert page.count('href="data:image/jpeg;base64,') == 1 and "stored.jpg" in page
    shown = int((search.pictures.regions(KEYS[2]).scores >= 0.2).sum())
    assert shown and page.count('class="region"') == shown
    for hit in hits:
        assert page.count(hit.caption) >= 2
    assert decode_regions("stored.jpg", query.record).size == (128, 128)
