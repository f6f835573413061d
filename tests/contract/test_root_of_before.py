"""What an earlier version made is found as it is: nothing is downloaded, extracted, trained or scored again."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tasks.world
from flows.params.experiment import RebuildParams
from flows.steps.world import world_served
from flows.views.status import read_status
from model.jobs import PretrainJob
from model.pretrain import run_pretraining
from model.training.checkpoint import list_checkpoints
from tasks.evaluation.history import read_history
from tasks.records import Stage
from tasks.storage.root import Root

MADE = Path(__file__).parents[1] / "golden" / "root-0.1" / "root.tar.gz"
SETTINGS = "download.json"
"""Names the rows by their path, which is another one here."""
MADE_UNDER, MADE_BY, MADE_WITH_TORCH = "/data/before", "/opt/unicoder-vl", "2.15.0"

pytestmark = pytest.mark.skipif(
    torch.__version__.split("+")[0] != MADE_WITH_TORCH,
    reason=f"features name the torch that made them: those of this root are of {MADE_WITH_TORCH}",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of before, unpacked and moved to another folder, as users move theirs."""
    with tarfile.open(MADE) as tar:
        tar.extractall(tmp_path / "root", filter="data")
    checkout = Path(tasks.world.__file__).parents[2]
    for name in ("params.json", *(str(path) for path in (tmp_path / "root").glob("runs/*/job.json"))):
        path = tmp_path / "root" / name
        text = path.read_text().replace(MADE_UNDER, str(tmp_path / "root"))
        path.write_text(text.replace(MADE_BY, str(checkout)))
    return tmp_path / "root"


def params_of(root: Path) -> RebuildParams:
    return RebuildParams.model_validate_json((root / "params.json").read_text())


def files_of(root: Path) -> dict[str, bytes]:
    """Everything that took work to make."""
    paths = [path for room in ("datasets", "features", "runs", "scores") for path in (root / room).rglob("*")]
    kept = [path for path in paths if path.is_file() and path.suffix != ".html" and path.name not in ("lock", SETTINGS)]
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}


def test_status_finds_all_of_it(root: Path) -> None:
    status = read_status(params_of(root), "--recipe demo")
    assert [(split.name, split.rows, split.shards, split.downloaded, split.extracted) for split in status.splits] == [
        ("web/train", 27, 2, 2, 2),
        ("retrieval/train", 30, 1, 1, 1),
        ("retrieval/val", 10, 1, 1, 1),
        ("retrieval/test", 20, 1, 1, 1),
    ]
    assert [(run.run, run.state) for run in status.runs] == [
        ("pretrain-b4e8481c42d5", "done"),
        ("finetune-b1e32267c1bb", "done"),
        ("finetune-483d281763eb", "done"),
    ]
    assert set(status.evaluated.values()) == {True}
    assert status.next_command is None


@pytest.mark.flow
@pytest.mark.slow("a rebuild under Prefect")
def test_rebuild_does_nothing_again_and_prints_the_table_of_then(root: Path, prefect_harness: None) -> None:
    from flows.rebuild import rebuild

    params, before, history = params_of(root), files_of(root), (root / "history.jsonl").read_bytes()
    with world_served(params):
        result = rebuild(params)
    assert {summary.stage: summary.ran for summary in result.stages} == dict.fromkeys(
        set(Stage) - {Stage.MANIFEST, Stage.TEXT}, 0
    )
    assert {row.setting: (row.image_to_text[1], row.text_to_image[5]) for row in result.table} == {
        "chance": (0.25, 1.0),
        "zero-shot": (0.25, 1.0),
        "task-specific": (0.25, 1.0),
        "pretrain+finetune": (0.25, 1.0),
    }
    after = files_of(root)
    assert {name: after[name] for name in before} == before
    assert {Path(name).name for name in after.keys() - before.keys()} <= {"made-from.json"}  # Noted since.
    assert (root / "history.jsonl").read_bytes() == history


def test_a_history_row_of_then_still_reads(root: Path) -> None:
    rows = read_history(Root(str(root)))
    assert [(row.setting, row.stage, row.step) for row in rows] == [
        ("task-specific", "finetune", 4),
        ("zero-shot", "pretrain", 4),
        ("pretrain+finetune", "finetune", 4),
    ]
    assert rows[0].metrics["image_to_text_recall"] == {"1": 0.25, "5": 1.0, "10": 1.0}


def test_a_run_that_was_under_way_goes_on_to_the_weights_of_then(root: Path) -> None:
    """As if the run had been killed between its checkpoints of step 2 and step 4."""
    run = next((root / "runs").glob("pretrain-*"))
    last = list_checkpoints(run)[-1].path
    undisturbed = load_file(last / "model.safetensors")
    (run / "final.json").unlink()
    last.rename(root / "aside")
    run_pretraining(PretrainJob.model_validate_json((run / "job.json").read_text()))
    resumed = load_file(last / "model.safetensors")
    assert resumed.keys() == undisturbed.keys()
    for name, weight in undisturbed.items():  # Bit for bit where the processor's kernels are those of then.
        torch.testing.assert_close(resumed[name], weight, atol=1e-5, rtol=1e-4)
