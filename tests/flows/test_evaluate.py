"""The scheduled evaluation: the newest checkpoint of a run that may still train; nothing twice; a fall is a failure."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.params.evaluation import EvaluateParams
from flows.results import RetrievalResult
from model.config import FeatureSource
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.scores import Scores
from model.families.unicoder_vl_config import UnicoderVLConfig
from tasks.errors import StageError
from tasks.evaluation.history import append_history, read_history
from tasks.records import FileDigest, Receipt, Stage
from tasks.storage.paths import HISTORY, captions_path, captions_receipt_path, features_folder
from tasks.storage.root import Root
from tests.toy import TINY, eight_pairs, make_world

__all__ = ["eight_pairs", "make_world"]
pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_harness")]

RUN = "pretrain-0123456789ab"
SCORING = ScoringConfig(device="cpu", num_threads=1, block_pairs=16)


def add_checkpoint(root: Path, source: FeatureSource, vocabulary: Path, step: int, seed: int) -> None:
    """A checkpoint of a new model: what a run that has not ended leaves behind."""
    from model.data.store import open_store
    from model.data.tokenizer import load_vocabulary
    from model.families.build import build_model
    from model.training.checkpoint import Keep, State, save_checkpoint

    encoder = UnicoderVLConfig.model_validate(TINY)
    loaded = load_vocabulary(vocabulary)
    model = build_model(encoder, open_store(source), loaded, seed=seed)
    save_checkpoint(root / "runs" / RUN, State(step=step), model, loaded.words, {}, Keep(last=5))


@pytest.fixture
def begun(eight_pairs: tuple[FeatureSource, Path], tmp_path: Path) -> tuple[Root, Callable[..., None]]:
    """A root with features of eight pictures and a run under way; and what adds a checkpoint to it."""
    source, vocabulary = eight_pairs
    root = Root(str(tmp_path / "root"))
    shutil.copytree(source.features_path, root.local(features_folder("e" * 64, "retrieval", "test")))
    root.publish_bytes(captions_path("retrieval", "test"), Path(source.captions_path).read_bytes())
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset="retrieval",
        split="test",
        shard=0,
        fingerprint="f",
        counts={"ok": 8},
        files={"captions.parquet": FileDigest(bytes=1, sha256="c")},
        seconds=0,
        created_at="2026-01-01T00:00:00+00:00",
    )
    root.publish_model(captions_receipt_path("retrieval", "test"), receipt)
    root.publish_bytes(
        f"runs/{RUN}/job.json", json.dumps({"pretrain": {"seed": 3}, "train": {"name": "web/train"}}).encode()
    )
    return root, lambda step, seed: add_checkpoint(root.local(""), source, vocabulary, step, seed)


def scheduled(root: Root, **changes: Any) -> RetrievalResult:
    from flows.evaluate import evaluate

    fields = {"run": RUN, "dataset": "retrieval", "checkpoint": "newest", "max_drop": 0.02, "scoring": SCORING}
    return evaluate(EvaluateParams.model_validate({"root_uri": root.uri, **fields, **changes}))


def artifact() -> list[dict[str, Any]]:
    """The newest table of the watched setting and data."""
    from prefect.artifacts import Artifact

    found = Artifact.get("recall-zero-shot-retrieval-test")
    assert found is not None and isinstance(found.data, str)
    table: list[dict[str, Any]] = json.loads(found.data)
    return table


def states() -> list[tuple[str, str | None]]:
    """Kind and message of the last states of this flow's runs, newest first."""
    from prefect import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    async def read() -> list[tuple[str, str | None]]:
        async with get_client() as client:
            runs = await client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=5)
        return [(run.state.type.value, run.state.message) for run in runs if run.state is not None]

    return asyncio.run(read())


def number_of_runs() -> int:
    from prefect import get_client

    async def count() -> int:
        async with get_client() as client:
            return await client.count_flow_runs()

    return asyncio.run(count())


def test_a_run_is_watched_while_it_trains(begun: tuple[Root, Callable[..., None]]) -> None:
    root, add = begun
    add(step=5, seed=0)
    first = scheduled(root)
    assert (first.skipped, first.fall, first.row.step, first.row.setting, first.row.seed) == (
        False,
        None,
        5,
        "zero-shot",
        3,
    )
    assert [line["evaluation"] for line in artifact()] == ["this"]

    again = scheduled(root)
    assert again.skipped and again.row == first.row
    assert read_history(root) == [first.row]

    # Somebody's better checkpoint, and then a newer one of the run.
    best = {"image_to_text_recall": {"1": 1, "5": 1, "10": 1}, "text_to_image_recall": {"1": 1, "5": 1, "10": 1}}
    better = {"run": "pretrain-best", "step": 1234, "checkpoint_fingerprint": "b", "metrics": first.row.metrics | best}
    append_history(root, first.row.model_copy(update=better))
    add(step=10, seed=1)
    with pytest.raises(StageError, match=r"recall fell: zero-shot on retrieval/test, 8 images x 8 captions: ") as fell:
        scheduled(root)
    assert "of pretrain-0123456789ab step 10 is " in str(fell.value)
    assert "below the best so far, 100.0 (600.0) of pretrain-best step 1,234" in str(fell.value)
    assert read_history(root)[-1].step == 10
    before, this, difference = artifact()
    assert (before["run"], this["step"], before["recall sum"]) == ("pretrain-best", 10, 600.0)
    assert difference["recall sum"] == pytest.approx(this["recall sum"] - 600, abs=0.01)
    kind, message = states()[0]
    assert kind == "FAILED" and message is not None and "recall fell" in message

    # It is still so when asked again; nothing is added; and with a margin it is not too far.
    with pytest.raises(StageError, match="recall fell"):
        scheduled(root)
    assert len(read_history(root)) == 3
    assert scheduled(root, max_drop=1.0).skipped
    assert states()[0][0] == "COMPLETED"
    assert scheduled(root, max_drop=None, checkpoint=5).row == first.row


def test_the_command_line_ends_with_one_and_a_sentence(begun: tuple[Root, Callable[..., None]]) -> None:
    from flows.commands.app import app

    root, add = begun
    add(step=5, seed=0)
    arguments = ["evaluate", "--root", root.uri, "--run", "pretrain", "--on", "retrieval/test"]
    arguments += ["--checkpoint", "newest", "--set", "device=cpu", "--set", "num_threads=1"]
    protocols = ["--set", "protocols=all,folds:4"]
    done = CliRunner().invoke(app, [*arguments, *protocols], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "8 images x 8 captions" in done.stdout and "ean of 2 folds of 4 images (8 captions in all)" in done.stdout
    assert "the first evaluation of zero-shot on retrieval/test" in done.stdout
    asked = CliRunner().invoke(app, [*arguments, *protocols, "--json"], catch_exceptions=False)
    result = RetrievalResult.model_validate_json(asked.stdout.splitlines()[-1])
    assert result.skipped and [table.row.folds for table in result.also] == [2]
    assert result.chance.text_to_image[1] == 1 / 8 and result.also[0].chance.text_to_image[1] == 1 / 4

    # By another ground truth, whose ids are our keys.
    truth = Path(root.uri) / "mine_image_to_caption.json"
    (plan,) = Path(root.uri).glob("scores/*/plan.json")
    scores = Scores(plan.parent)
    images, captions = [int(key) for key in scores.image_keys], scores.caption_ids
    truth.write_text(json.dumps(dict.fromkeys(images, captions[:2])))
    (truth.parent / "mine_caption_to_image.json").write_text(json.dumps({captions[0]: images, captions[1]: images}))
    measured = CliRunner().invoke(app, [*arguments, *protocols, "--positives", str(truth)], catch_exceptions=False)
    assert measured.exit_code == 0 and "scored before" in measured.stdout
    assert "mAP@R" in measured.stdout and "ground truth: mine (8 image and 2 caption queries)" in measured.stdout
    asked = CliRunner().invoke(app, [*arguments, *protocols, "--positives", str(truth), "--json"])
    (table,) = RetrievalResult.model_validate_json(asked.stdout.splitlines()[-1]).positives
    assert Path(table.path).is_file() and table.row.text_to_image_r_precision == 1
    truth.write_text('{"123456": [1]}')
    refused = CliRunner().invoke(app, [*arguments, "--positives", str(truth)])
    assert refused.exit_code == 2 and "asks for image 123456, but it" in refused.stderr.splitlines()[-1]

    row = read_history(root)[0]
    best = {"image_to_text_recall": {"1": 1, "5": 1, "10": 1}, "text_to_image_recall": {"1": 1, "5": 1, "10": 1}}
    better = row.model_copy(update={"checkpoint_fingerprint": "b", "metrics": row.metrics | best})
    lines = [one.model_dump_json() for one in (better, row)]
    root.publish_bytes(HISTORY, "".join(f"{line}\n" for line in lines).encode())
    failed = CliRunner().invoke(app, [*arguments, *protocols, "--max-drop", "0.02"], catch_exceptions=False)
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1].startswith("recall fell: zero-shot on retrieval/test")


def test_a_command_shows_up_in_the_server_that_is_configured(begun: tuple[Root, Callable[..., None]]) -> None:
    """And what it finds done it finds done there, too."""
    from prefect.settings import PREFECT_API_URL

    root, add = begun
    add(step=5, seed=0)
    row = scheduled(root).row
    runs = number_of_runs()
    command = [sys.executable, "-m", "flows", "evaluate", "--root", root.uri, "--run", RUN, "--on", "retrieval/test"]
    command += ["--checkpoint", "newest", "--set", "device=cpu", "--json"]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = RetrievalResult.model_validate_json(done.stdout.splitlines()[-1])
    assert result.skipped and result.row == row
    assert (number_of_runs(), states()[0][0]) == (runs + 1, "COMPLETED")
