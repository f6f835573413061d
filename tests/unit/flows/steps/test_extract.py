"""Extraction as a user types it, without a Prefect server: of what was downloaded, of a part of it, and again."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

import tasks.world
from feature_extraction.config import ExtractorConfig
from flows.commands import shard_options as options
from flows.commands.app import app
from flows.params.shards import DownloadParams, ExtractParams
from flows.steps.direct import download_directly, extract_directly
from flows.views.terminal import ROOMS
from tasks.errors import UserError
from tasks.extractor import extractor_fingerprint
from tasks.records import ShardRef
from tasks.storage.paths import feature_manifest_path
from tasks.storage.root import Root
from tasks.world.scenes import render_scene

SHIPPED = Path(tasks.world.__file__).with_name("detector.safetensors")
SETTINGS = [
    "backend=torchvision",
    "model=small",
    f"weights={SHIPPED}",
    "max_regions=6",
    "num_proposals=32",
    "device=cpu",
]


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A command logs to the stderr that it finds, which is gone when the next test begins."""
    yield
    for room in ROOMS:
        logging.getLogger(room).handlers.clear()
        logging.getLogger(room).propagate = True


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root with ten pictures of scenes in shards of four."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(10):
        render_scene(np.random.default_rng(number), 2, 4).image.save(folder / f"{number}.jpg", quality=92)
    (folder / "rows.tsv").write_text("".join(f"caption {number}\t{number}.jpg\n" for number in range(10)))
    split = {"rows": str(folder / "rows.tsv"), "images": str(folder)}
    params = {
        "root_uri": str(folder / "data"),
        "datasets": [{"name": "web", "splits": {"train": split}, "shard_size": 4}],
    }
    download_directly(DownloadParams.model_validate(params | {"max_workers": 1}))
    return str(folder / "data")


@pytest.fixture
def fresh(downloaded: str) -> Iterator[str]:
    """That root, from which features are taken away afterwards."""
    yield downloaded
    shutil.rmtree(f"{downloaded}/features", ignore_errors=True)


def parameters(root: str, **changes: object) -> ExtractParams:
    loaded = options.with_extract_options(options.begun_extract_params(root, None), None, None, None, None, SETTINGS)
    return ExtractParams.model_validate(loaded.model_dump() | changes)


def manifest_of(params: ExtractParams) -> Path:
    extractor, _ = extractor_fingerprint(params.extractor)
    return Path(Root(params.root_uri).path(feature_manifest_path(extractor, "web", "train")))


@pytest.mark.slow("a command that loads a detector")
def test_the_command_needs_no_recipe_for_what_was_downloaded_under_a_root(fresh: str) -> None:
    arguments = ["extract", "--root", fresh, *(part for text in SETTINGS for part in ("--set", text))]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "web/train: 3 shards done, 0 done before; 10 ok" in first.output
    again = CliRunner().invoke(app, arguments)
    assert "web/train: 0 shards done, 3 done before; 10 ok" in again.output


@pytest.mark.slow("several commands that load a detector")
def test_shards_are_shared_out_and_whoever_ends_last_writes_the_manifest(
    fresh: str, caplog: pytest.LogCaptureFixture
) -> None:
    params = parameters(fresh)
    with caplog.at_level(logging.INFO, "flows"):
        (odd,) = extract_directly(parameters(fresh, shards="1"))
    assert (odd.ran, odd.counts["ok"]) == (1, 4)
    assert "web/train: 2 shards have no regions yet; its manifest waits" in caplog.text
    (line,) = (message for message in caplog.messages if message.startswith("web/train 00001: 4 ok"))
    assert re.search(r"detector busy \d+%\) \[1/1\]$", line)
    assert not manifest_of(params).exists()
    (even,) = extract_directly(parameters(fresh, part="0/2"))
    assert (even.ran, even.counts["ok"]) == (2, 6)
    assert manifest_of(params).exists()


@pytest.mark.slow("a worker process that loads a detector")
def test_warnings_of_a_worker_reach_the_log(fresh: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    untrained = ExtractorConfig(
        backend="torchvision", model="small", weights="random", vocabulary=str(tmp_path / "labels.txt"), max_regions=6,
        num_proposals=16, device="cpu",
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "flows"):
        extract_directly(parameters(fresh, shards="0", extractor=untrained.model_dump()))
    assert "extract: WARNING: extractor.model=small has random weights" in caplog.text


def test_the_images_of_a_shard_go_to_exactly_one_part() -> None:
    refs = [ShardRef(dataset="web", split="train", shard=shard) for shard in range(23)]
    datasets = [{"name": "web", "splits": {"train": "rows.tsv"}}]

    def part(text: str | None) -> list[int]:
        params = ExtractParams.model_validate({"root_uri": "r", "datasets": datasets, "part": text})
        return [ref.shard for ref in refs if params.selects(ref)]

    assert sorted(shard for number in range(4) for shard in part(f"{number}/4")) == list(range(23))
    assert part("3/4") == [3, 7, 11, 15, 19]
    assert part(None) == list(range(23))
    with pytest.raises(ValidationError, match="parts of 4 are 0/4 to 3/4"):
        part("4/4")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"part": "1"}, "--part '1' cannot be read: give I/N"),
        ({"shards": "a-b"}, "--shards 'a-b' cannot be read"),
        ({"settings": ["modle=x"]}, "--set modle: there is no setting 'modle'; known are backend, model,"),
    ],
)
def test_options_that_cannot_be_read_are_named(downloaded: str, arguments: dict[str, object], said: str) -> None:
    given = {"only": None, "shards": None, "part": None, "workers": None, "settings": []} | arguments
    with pytest.raises(UserError, match=said):
        options.with_extract_options(options.begun_extract_params(downloaded, None), **given)  # type: ignore[arg-type]


def test_a_root_without_downloads_says_what_to_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["extract", "--root", str(tmp_path)])
    assert result.exit_code == 2
    assert "unicoder-vl download" in result.output


def test_a_selection_of_nothing_is_an_error(downloaded: str) -> None:
    with pytest.raises(UserError, match=r"shards='7', part=None select no shard"):
        extract_directly(parameters(downloaded, shards="7"))
