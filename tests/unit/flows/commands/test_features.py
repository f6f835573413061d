import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from flows.commands.features import add_commands
from tests.foreign import lxmert_file
from tests.uniter import CLASSES, as_map, picture, text_value, write_images, write_lmdb


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return lxmert_file(tmp_path / "a.tsv", ["x", "y", "x"])


def run(*arguments: object) -> Result:
    app = typer.Typer()
    add_commands(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def bring_in(source: Path, root: Path, *options: str) -> Result:
    return run("import-features", source, "--dataset", "coco/train", "--detector", "d", "--root", root, *options)


def test_features_go_in_are_whole_and_come_out(source, tmp_path):
    root = tmp_path / "data"
    imported = bring_in(source, root)
    assert imported.exit_code == 0, imported.output
    assert "2 ok" in imported.stdout
    assert "1 rows repeat the id of an earlier one" in imported.stdout
    folder = next((root / "features").iterdir()).name
    assert f'{{"backend": "imported", "model": "{folder}"}}' in imported.stdout
    checked = run("verify", "--root", root, "--deep")
    assert checked.exit_code == 0
    assert f"coco/train of {folder}: 1 shards, 2 images (finished; read through): whole" in checked.stdout
    exported = run("export-features", "--dataset", "coco/train", "--root", root, "--out", tmp_path / "b.tsv", "--json")
    assert exported.exit_code == 0
    assert json.loads(exported.stdout)["pictures"] == 2
    assert len((tmp_path / "b.tsv").read_bytes().splitlines()) == 2


def test_databases_of_pictures_and_texts_go_in_together(source, tmp_path):
    images = write_images(tmp_path / "img" / "all", {"coco_1.npz": as_map(picture(1, 3))})
    texts = write_lmdb(tmp_path / "txt.db", {"7": text_value([5, 6], "coco_1.npz"), "8": text_value([5], "coco_2.npz")})
    (texts / "id2len.json").write_text('{"7": 2, "8": 1}')
    (texts / "meta.json").write_text('{"bert": "bert-base-cased", "UNK": 1}')
    for name, lines in (
        ("vocab.txt", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog"]),
        ("names.txt", [f"thing {number}" for number in range(CLASSES)]),
    ):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    options = ("--vocabulary", str(tmp_path / "names.txt"), "--texts", str(texts))
    done = bring_in(images, tmp_path / "data", *options, "--word-pieces", str(tmp_path / "vocab.txt"))
    assert done.exit_code == 0, done.output
    assert "1 captions\n1 texts are of a picture that the image database lacks, such as coco_2.npz" in done.stdout
    without = bring_in(images, tmp_path / "data", *options)
    assert without.exit_code == 2
    assert "with --word-pieces" in without.output
    other = bring_in(source, tmp_path / "data", "--texts", str(texts))
    assert other.exit_code == 2
    assert "--texts needs pictures that are named as in UNITER's image database" in other.output


def test_what_a_tsv_does_not_say_can_be_said(source, tmp_path):
    another = bring_in(source, tmp_path / "data", "--feature-dim", "9")
    assert another.exit_code == 2
    assert "they may be 16 float16 or 8 float32 or 4 float64: say with --feature-dim" in another.output
    shares = bring_in(source, tmp_path / "data", "--boxes", "normalised")
    assert shares.exit_code == 2
    assert "shares of width and height end at 1" in shares.output
    assert bring_in(source, tmp_path / "data", "--boxes", "pixels", "--feature-dim", "8").exit_code == 0


def test_damage_is_exit_code_1_and_named(source, tmp_path):
    root = tmp_path / "data"
    summary = json.loads(bring_in(source, root, "--json").stdout)
    shard = Path(summary["folder"]) / "regions-00000.tar"
    shard.write_bytes(b"cut")
    checked = run("verify", "--root", root)
    assert checked.exit_code == 1
    assert f"{shard}: regions-00000.tar has 3 bytes" in checked.stdout
    machine = json.loads(run("verify", "--root", root, "--json").stdout)
    assert machine["features"][0]["problems"][0]["file"] == str(shard)
    exported = run("export-features", "--dataset", "coco/train", "--root", root, "--out", tmp_path / "b.tsv")
    assert exported.exit_code == 1
    assert "unicoder-vl verify --deep" in exported.output


@pytest.mark.parametrize("name", ["coco", "coco/", "../coco/train", "a/b/c"])
def test_bad_input_is_exit_code_2(source, tmp_path, name):
    done = run("import-features", source, "--dataset", name, "--detector", "d", "--root", tmp_path / "data")
    assert done.exit_code == 2
    assert "is not DATASET/SPLIT" in done.output
    assert run("verify", "--root", tmp_path / "data").exit_code == 2
