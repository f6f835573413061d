"""The command `inspect`: what it writes, what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from flows.commands.inspect import add_commands, shard_ranges
from tasks.errors import UserError
from tasks.storage import paths
from tasks.storage.root import Root
from tests.regions import DATASET, EXTRACTOR, FEATURES, SPLIT, publish_features, publish_pictures, regions_of


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)  # With one command alone, its name would not be asked for.
    add_commands(app)
    return CliRunner().invoke(app, ["inspect", *arguments], catch_exceptions=False)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path / "root"))
    for shard, keys in enumerate((["000000000", "000000001"], ["000000002"])):
        publish_features(root, shard, [regions_of(key) for key in keys])
        publish_pictures(root, shard, keys)
    return root


def test_page_and_contact_sheet_are_written(tmp_path: Path, root: Root) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    result = run("--root", root.uri, "--of", "photos/train", "--picture", str(sheet))
    assert result.exit_code == 0, result.output
    page = Path(root.path("inspect-photos-train.html"))
    assert page.read_text().count("<img ") == 3
    with Image.open(sheet) as image:
        assert image.size[0] == 3 * 480 + 4 * 20
    assert "photos/train: 3 images with regions in 2 shards, 0 failed; statistics over 3 images" in result.stdout
    assert f"page: {page}" in result.stdout and f"picture: {sheet}" in result.stdout


def test_json_holds_the_statistics(tmp_path: Path, root: Root) -> None:
    out = tmp_path / "page.html"
    options = ("--shards", "0", "--count", "1", "--out", str(out), "--json")
    result = run("--root", root.uri, "--of", "photos/train", *options)
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["page"] == str(out) and out.read_text().count("<img ") == 1
    assert found["inspection"]["samples"] == 2
    assert found["inspection"]["statistics"]["labels"][0] == {"label": 0, "name": "cat", "regions": 2}


def test_keys_name_the_pictures(root: Root) -> None:
    result = run("--root", root.uri, "--of", "photos/train", "--keys", "000000002, 000000000")
    page = Path(root.path("inspect-photos-train.html")).read_text()
    assert result.exit_code == 0
    assert page.index("000000002, shard 1") < page.index("000000000, shard 0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--of '' is not DATASET/SPLIT"),
        (("--of", "photos"), "--of 'photos' is not DATASET/SPLIT"),
        (("--of", "photos/val"), "there are no features of photos/val"),
        (("--of", "photos/train", "--features", "nothing"), "there are no features of photos/train by nothing under"),
        (("--of", "photos/train", "--shards", "a-b"), "--shards 'a-b' cannot be read"),
        (("--of", "photos/train", "--picture", "a.jpg"), "not the name of a .png file"),
        (("--of", "photos/train", "--picture", "a.png", "--count", "0"), "--picture needs pictures"),
        (("--of", "photos/train", "--out", "there/"), "'there/' is a folder"),
        (("--of", "photos/train", "--recipe", "demo"), "there are no features of photos/train by "),
        (("--of", "photos/train", "--recipe", "nothing"), "there is no recipe 'nothing'"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(root: Root, arguments: tuple[str, ...], message: str) -> None:
    before = sorted(Path(root.uri).rglob("*"))
    result = run("--root", root.uri, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert result.stdout == "" and sorted(Path(root.uri).rglob("*")) == before


def test_features_of_two_extractors_are_to_be_chosen_from(root: Root) -> None:
    other = paths.features_folder("a" * 64, DATASET, SPLIT)
    root.publish_bytes(f"{other}/regions-00000.json", b"{}")
    result = run("--root", root.uri, "--of", "photos/train")
    assert result.exit_code == 2 and "photos/train has features of 2 extractors" in result.stderr
    assert run("--root", root.uri, "--of", "photos/train", "--features", EXTRACTOR[:12]).exit_code == 0


def test_damaged_shard_ends_with_1_and_its_name(root: Root) -> None:
    path = f"{FEATURES.folder}/regions-00001.tar"
    root.publish_bytes(path, root.read_bytes(path)[:-512])
    result = run("--root", root.uri, "--of", "photos/train")
    assert result.exit_code == 1 and "regions-00001.tar has" in result.stderr and result.stderr.count("\n") == 1


def test_shard_ranges_are_read() -> None:
    assert shard_ranges("0-9,12") == ((0, 9), (12, 12))
    with pytest.raises(UserError, match="give numbers and ranges"):
        shard_ranges("1-")


def test_another_set_is_compared_with(root: Root) -> None:
    result = run("--root", root.uri, "--of", "photos/train", "--against", EXTRACTOR[:12])
    assert result.exit_code == 0
    assert f"against {EXTRACTOR[:12]}, over 3 images: 100.0% of the regions are there, too, 100.0% of" in result.stdout
    assert "<h2>Against another set</h2>" in Path(root.path("inspect-photos-train.html")).read_text()
    result = run("--root", root.uri, "--of", "photos/train", "--against", "nothing")
    assert result.exit_code == 2 and "there are no features of photos/train by nothing" in result.output


def test_a_page_that_cannot_be_written_is_one_sentence(root: Root) -> None:
    inside = f"{root.path('features')}/{EXTRACTOR[:12]}/extractor.json/page.html"
    result = run("--root", root.uri, "--of", "photos/train", "--out", inside)
    assert result.exit_code == 2 and f"cannot write {inside} (" in result.output
