from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tasks.errors import UserError
from tasks.world import dataset
from tasks.world.captions import vocabulary
from tasks.world.dataset import Fault, WorldConfig, WorldFiles, make_world, read_world

SMALL = WorldConfig(pretraining_images=60, retrieval_train=4, retrieval_val=2, retrieval_test=3, workers=1)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def urls(rows: Path) -> list[str]:
    return [line.split("\t")[1] for line in rows.read_text().splitlines() if "\t" in line]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    """Made once; tests that use it only read."""
    return make_world(tmp_path_factory.mktemp("world"), SMALL, port=8001)


def test_web_rows_have_one_caption_each_and_exactly_three_have_no_tab(world: WorldFiles) -> None:
    lines = world.rows["web/train"].read_text().splitlines()
    fields = Counter(len(line.split("\t")) for line in lines)
    assert fields == {2: 60, 1: 3}


def test_retrieval_pictures_have_five_rows_with_one_url(world: WorldFiles) -> None:
    assert Counter(urls(world.rows["retrieval/test"])) == {
        f"http://127.0.0.1:8001/retrieval/test/00000{i}.jpg": 5 for i in range(3)
    }


def test_every_kind_of_fault_occurs_and_the_missing_pictures_are_not_on_disk(world: WorldFiles) -> None:
    faults = read_world(world.folder).faults
    # Shares of 60 rows, rounded up.
    assert Counter(faults.values()) == dict.fromkeys(Fault, 1)
    for path, fault in faults.items():
        assert (world.folder / "pictures" / path[1:]).exists() == (fault != Fault.NOT_FOUND)


def test_a_repeated_url_is_an_earlier_healthy_one(world: WorldFiles) -> None:
    faults = read_world(world.folder).faults
    seen: list[str] = []
    repeated = []
    for url in urls(world.rows["web/train"]):
        if url in seen:
            repeated.append(url)
        seen.append(url)
    assert len(repeated) == 1
    assert repeated[0].removeprefix("http://127.0.0.1:8001") not in faults


def test_pictures_are_valid_jpegs_of_one_size(world: WorldFiles) -> None:
    pictures = sorted((world.folder / "pictures").rglob("*.jpg"))
    assert len(pictures) == 60 - 1 - 1 + 9  # one missing, one repeated
    for path in pictures:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()
            assert (image.format, image.size, image.mode) == ("JPEG", (128, 128), "RGB")


def test_captions_use_the_vocabulary_file(world: WorldFiles) -> None:
    words = world.vocabulary.read_text().splitlines()
    assert words == vocabulary()
    for rows in world.rows.values():
        for line in rows.read_text().splitlines():
            assert set(line.split("\t")[0].split()) <= set(words)


def test_number_of_processes_changes_no_byte(
    world: WorldFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", 25)
    make_world(tmp_path, SMALL.model_copy(update={"workers": 2}), port=8001)
    expected, found = contents(world.folder), contents(tmp_path)
    assert {k: v for k, v in expected.items() if k != "world.json"} == {
        k: v for k, v in found.items() if k != "world.json"
    }


def test_another_seed_is_another_world(world: WorldFiles, tmp_path: Path) -> None:
    make_world(tmp_path, SMALL.model_copy(update={"seed": 1}), port=8001)
    assert contents(world.folder)["rows/web-train.tsv"] != contents(tmp_path)["rows/web-train.tsv"]
    first = "pictures/retrieval/test/000000.jpg"
    assert (world.folder / first).read_bytes() != (tmp_path / first).read_bytes()


def test_same_config_and_port_redo_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_world(tmp_path, SMALL, port=8001)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(dataset, "render_scene", _refuse)
    again = make_world(tmp_path, SMALL.model_copy(update={"workers": 3}), port=8001)
    assert (first.made, again.made) == (True, False)
    assert again.rows == first.rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == stamps


def test_another_port_rewrites_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_world(tmp_path, SMALL, port=8001)
    before = contents(tmp_path)
    monkeypatch.setattr(dataset, "render_scene", _refuse)
    moved = make_world(tmp_path, SMALL, port=9002)
    after = contents(tmp_path)
    assert not moved.made
    assert {name for name in before if before[name] != after[name]} == {
        "world.json",
        *(str(path.relative_to(tmp_path)) for path in moved.rows.values()),
    }
    for rows in moved.rows.values():
        assert all(url.startswith("http://127.0.0.1:9002/") for url in urls(rows))
    make_world(tmp_path, SMALL, port=8001)
    assert contents(tmp_path) == before


def test_a_rewrite_cut_off_between_files_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path, SMALL, port=8001)
    before = contents(tmp_path)
    rows = world.rows["retrieval/train"]
    rows.write_text(rows.read_text().replace(":8001/", ":9002/"))
    monkeypatch.setattr(dataset, "render_scene", _refuse)
    make_world(tmp_path, SMALL, port=8001)
    assert contents(tmp_path) == before


def test_a_world_without_its_rows_is_made_again(tmp_path: Path) -> None:
    world = make_world(tmp_path, SMALL, port=8001)
    before = contents(tmp_path)
    world.rows["web/train"].unlink()
    assert make_world(tmp_path, SMALL, port=8001).made
    assert contents(tmp_path) == before


def test_a_killed_run_is_made_good_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "whole"
    make_world(whole, SMALL, port=8001)
    cut = tmp_path / "cut"
    drawn = 0

    def dies(*args: object) -> object:
        nonlocal drawn
        drawn += 1
        if drawn > 30:
            raise KeyboardInterrupt
        return render_scene(*args)  # type: ignore[arg-type]

    render_scene = dataset.render_scene
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, "render_scene", dies)
        make_world(cut, SMALL, port=8001)
    assert not (cut / "world.json").exists()
    torn = next((cut / "pictures").rglob("*.jpg"))
    torn.write_bytes(torn.read_bytes()[:100])

    assert make_world(cut, SMALL, port=8001).made
    assert contents(cut) == contents(whole)


def test_another_config_replaces_the_world(tmp_path: Path) -> None:
    make_world(tmp_path, SMALL, port=8001)
    assert make_world(tmp_path, SMALL.model_copy(update={"retrieval_test": 2}), port=8001).made
    assert len(urls(tmp_path / "rows" / "retrieval-test.tsv")) == 10


def test_no_file_tells_where_objects_are(world: WorldFiles) -> None:
    kinds = Counter(path.suffix for path in world.folder.rglob("*") if path.is_file())
    assert kinds == {".jpg": 67, ".tsv": 4, ".txt": 1, ".json": 1}
    assert set(json.loads((world.folder / "world.json").read_text())) == {"format", "config", "port", "faults"}


def test_an_unfinished_folder_is_not_a_world(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"world\.json is missing"):
        read_world(tmp_path)


def test_an_edited_world_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"world\.json is not a World"):
        make_world(tmp_path, SMALL, port=8001)


def _refuse(*args: object) -> object:
    raise AssertionError("a picture was drawn again")
