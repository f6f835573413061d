"""docs/own-data.md, typed on a few drawn pictures: they go in by its commands, and its experiment trains on them.

What would take minutes is replaced: of the commands that train and search, the command line takes the options; and the
page's pretraining runs for two steps with the sizes of a toy.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from feature_extraction.foreign.npz import write_npz
from flows.commands.app import app
from flows.params.checks import check_rebuild, read_params
from flows.params.experiment import RebuildParams
from model.jobs import PretrainJob
from model.pretrain import run_pretraining
from tasks.storage.root import Root
from tasks.training.data import resolve_data
from tasks.world.scenes import COLOURS, SHAPES
from tests.toy import make_sample

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/own-data.md").read_text(encoding="utf-8")
BLOCKS = {name: text for _, name, text in re.findall(r"^```(csv|json) (\S+)\n(.*?)^```$", PAGE, re.M | re.S)}
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines() if line
]
TYPED = [line for line in COMMANDS if re.search(r" (download|import-features) .* mine/", line)]
"""Those that bring in what is pretrained on; those for `found` are the same for another name."""
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "and", "something", "round", *COLOURS, *SHAPES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page begins with, and what its commands made of it."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("pictures", "features"):
        (folder / name).mkdir()
    for number in range(8):
        key = f"{number:06d}"
        Image.new("RGB", (100, 80), (20 * number, 90, 60)).save(folder / f"pictures/{key}.jpg")
        with (folder / f"features/{key}.npz").open("wb") as stream:
            write_npz(make_sample(key, [number % 8, (number + 1) % 8], 12, number), stream)
    for name, content in BLOCKS.items():
        (folder / name).write_text(content, encoding="utf-8")
    for split, numbers in (("val", (3, 4)), ("test", (5, 6, 7))):
        rows = "".join(f"{number:06d}.jpg,a {COLOURS[number % len(COLOURS)]} circle\n" for number in numbers)
        (folder / f"mine-{split}.csv").write_text(f"file,caption\n{rows}")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture(scope="module")
def typed(folder: Path) -> dict[str, str]:
    """What the commands said, typed in the page's order."""
    said = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in TYPED:
            result = CliRunner().invoke(app, shlex.split(command)[1:])
            assert result.exit_code == 0, f"{command}\n{result.output}"
            said[command] = result.output
    return said


@pytest.fixture(scope="module")
def params(folder: Path, typed: dict[str, str]) -> RebuildParams:
    """The page's experiment, with the extractor that the imports name, at a toy's size."""
    (extractor,) = {model for said in typed.values() for model in re.findall(r'"model": "(\w{12})"', said)}
    content = json.loads(BLOCKS["mine.json"])
    content["extractor"]["model"] = extractor
    content["encoder"] |= {"hidden_size": 24, "num_heads": 2, "intermediate_size": 32, "max_regions": 2}
    content["pretrain"] |= {"steps": 2, "batch_size": 2, "validation_steps": 2, "num_threads": 1, "device": "cpu"}
    (folder / "toy.json").write_text(json.dumps(content))
    return read_params(folder / "toy.json")


def test_every_line_is_a_command_of_ours_that_the_command_line_takes() -> None:
    assert len(COMMANDS) == 11 and len(TYPED) == 4
    for line in COMMANDS:
        program, name, *words = shlex.split(line)
        assert program == "unicoder-vl"
        command = typer.main.get_group(app).get_command(None, name)  # type: ignore[arg-type]
        with command.make_context(name, words) as context:
            assert context.params


def test_the_pages_experiment_is_one(folder: Path) -> None:
    whole = read_params(folder / "mine.json")
    assert {dataset.name for dataset in whole.datasets} == {"mine", "found"}
    assert whole.pretrain.matching == "paired" and whole.pretrain.objectives["vlm"] == 10


def test_the_pages_commands_bring_the_data_in_and_its_experiment_trains_on_it(
    folder: Path, params: RebuildParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    check_rebuild(params)
    root, spec = Root(params.root_uri), params.for_pretrain().spec()
    assert spec.validation is not None
    job = PretrainJob(
        run_path="run",
        train=resolve_data(root, spec.data).source,
        validation=resolve_data(root, spec.validation).source,
        vocabulary_path=spec.vocabulary_path,
        encoder=spec.encoder,
        pretrain=spec.pretrain,
    )
    assert run_pretraining(job) == 0
    last = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert any("vlm_accuracy" in row for row in last) and any("validation_vlm_accuracy" in row for row in last)


@pytest.mark.parametrize("field", sorted(set(re.findall(r"`((?:encoder|pretrain)\.[\w.]+)`", PAGE))))
def test_every_field_named_is_one(field: str) -> None:
    value: object = RebuildParams.model_validate(json.loads(BLOCKS["mine.json"]))
    for name in field.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:docs|tests)/[\w/.]*)`", PAGE))))
def test_every_file_named_exists(name: str) -> None:
    assert (REPOSITORY / name).exists()
