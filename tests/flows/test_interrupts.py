"""Ctrl-C as a terminal sends it, to a command and to all that it has started."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from feature_extraction.config import ExtractorConfig
from flows.params.recipes import recipe
from model.config import FeatureSource
from tasks.config import DatasetConfig
from tasks.extractor import extractor_fingerprint
from tasks.records import Receipt, Stage
from tasks.storage.paths import captions_path, captions_receipt_path, features_folder
from tasks.storage.root import Root, file_digest
from tests.terminal import Terminal
from tests.toy import TINY, eight_pairs, make_world

__all__ = ["eight_pairs", "make_world"]
pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent is killed by Linux alone"),
]

EXTRACTOR = ExtractorConfig(backend="torchvision", model="small", max_regions=5)
GOES_ON = "interrupted; the same command goes on from here"


@pytest.fixture
def params(eight_pairs: tuple[FeatureSource, Path], tmp_path: Path) -> Path:
    """Parameters of a training that takes minutes, and its data."""
    source, vocabulary = eight_pairs
    root = Root(str(tmp_path / "root"))
    features = root.local(features_folder(extractor_fingerprint(EXTRACTOR)[0], "toy", "train"))
    shutil.copytree(source.features_path, features)
    root.publish_bytes(captions_path("toy", "train"), Path(source.captions_path).read_bytes())
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset="toy",
        split="train",
        shard=0,
        fingerprint="f",
        counts={"ok": 8},
        files={"captions.parquet": file_digest(Path(source.captions_path))},
        seconds=0,
        created_at="2026-01-01T00:00:00+00:00",
    )
    root.publish_model(captions_receipt_path("toy", "train"), receipt)
    begun = recipe("demo", root.uri)
    training = {"steps": 500_000, "batch_size": 8, "checkpoint_steps": 400_000, "log_steps": 10}
    changed = begun.model_copy(
        update={
            "pretraining_dataset": DatasetConfig(name="toy", splits={"train": "rows.tsv"}),
            "extractor": EXTRACTOR,
            "encoder": TINY,
            "vocabulary_path": str(vocabulary),
            "pretrain": begun.pretrain.model_copy(update=training),
        }
    )
    path = tmp_path / "params.json"
    path.write_text(changed.model_dump_json())
    return path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """start(argument, ...) runs `unicoder-vl` in a terminal."""
    begun: list[Terminal] = []

    def run(*arguments: str) -> Terminal:
        environment = {"PREFECT_HOME": str(tmp_path / "prefect"), "OMP_NUM_THREADS": "1"}
        begun.append(Terminal(["-m", "flows", *arguments], environment))
        return begun[-1]

    yield run
    for terminal in begun:
        terminal.kill()


def trained(params: Path) -> list[Path]:
    """Logs of trainings that have taken their first steps."""
    return list((params.parent / "root").glob("runs/*/metrics.jsonl"))


def test_ctrl_c_during_training_is_one_sentence_with_the_checkpoint_written_and_nobody_left(
    params: Path, start: Callable[..., Terminal]
) -> None:
    """Slow: Prefect and torch are imported, and a server is started. How other signals end is a unit test."""
    terminal = start("pretrain", "--params", str(params))
    terminal.wait_until(lambda: trained(params))
    terminal.press_ctrl_c()
    assert terminal.wait() == 128 + signal.SIGINT
    assert "Traceback" not in terminal.said
    assert terminal.said.endswith(f"{GOES_ON}\n") and terminal.said.count("interrupted") == 1
    (log,) = (params.parent / "root").glob("runs/*/log.txt")
    assert "was asked to stop: checkpoint written at step" in log.read_text()
