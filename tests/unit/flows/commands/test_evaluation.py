"""What the command `evaluate` is asked for, before any Prefect: refusals are one sentence that names what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.app import app
from flows.commands.evaluation import evaluation_text
from flows.results import RetrievalResult
from tasks.evaluation.evaluate import PositivesTable, ProtocolTable
from tasks.evaluation.retrieval.chance import chance_row
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.records import HistoryRow
from tasks.storage.paths import feature_manifest_path
from tasks.storage.root import Root

EXTRACTOR = "e" * 64


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A finetuning run under way, with one checkpoint and the features that it reads."""
    root = Root(str(tmp_path))
    folder = "runs/finetune-bb22"
    root.publish_bytes(f"{folder}/job.json", json.dumps({"finetune": {"seed": 4}}).encode())
    root.publish_bytes(f"{folder}/checkpoints/step-0000005/model.safetensors", b"weights")
    root.publish_bytes(f"{folder}/checkpoints/step-0000005/config.json", json.dumps({"extractor": EXTRACTOR}).encode())
    root.publish_bytes(feature_manifest_path(EXTRACTOR, "retrieval", "test"), b"{}")
    return root.uri


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name what is scored: --run RUN (there are finetune-bb22) and --on DATASET/SPLIT, or --recipe"),
        ("--run absent --on a/b", "no run 'absent'"),
        ("--run finetune-bb22 --checkpoint newest", "there are features for finetune-bb22 of retrieval/test"),
        ("--run finetune-bb22 --checkpoint newest --on test", "--on 'test' is not DATASET/SPLIT; name what is scored"),
        ("--run finetune-bb22 --on retrieval/test", "is not a complete run; it has checkpoints of step 5: take"),
        (
            "--run finetune-bb22 --on retrieval/test --checkpoint 6",
            "at step 6 is not there: it has checkpoints of step",
        ),
        ("--run finetune-bb22 --on retrieval/test --checkpoint best", "there is no checkpoint 'best'"),
        ("--run finetune-bb22 --on coco/test --checkpoint 5", "coco/test has no finished features"),
        ("--run finetune-bb22 --on retrieval/test --recipe demo", "--recipe cannot be given with --run; leave it out"),
        ("--run x --on a/b --seed 1 --setting zero-shot", "--seed, --setting cannot be given with --run; leave them"),
        ("--recipe demo --on retrieval/test", "--on cannot be given with --recipe or --params"),
        ("--recipe demo --setting best", "there is no setting 'best' here; known are zero-shot, task-specific"),
        (
            "--run finetune-bb22 --on retrieval/test --set protocol=all",
            "--set protocol: there is no setting 'protocol'; known are batch_size, ",
        ),
        (
            "--run finetune-bb22 --on retrieval/test --max-drop 3",
            "params: max_drop: Input should be less than or equal",
        ),
        (
            "--run finetune-bb22 --on retrieval/test --checkpoint 5 --ids x",
            "--ids gives ids to the files of --positives",
        ),
        ("--run finetune-bb22 --on ../x/test --checkpoint 5", "--on '../x/test' is not DATASET/SPLIT; name"),
    ],
)
def test_bad_arguments_are_one_sentence(root: str, arguments: str, message: str) -> None:
    before = sorted(Path(root).rglob("*"))
    result = CliRunner().invoke(app, ["evaluate", "--root", root, *arguments.split()], catch_exceptions=False)
    assert result.exit_code == 2, result.output
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert sorted(Path(root).rglob("*")) == before


def test_every_protocol_has_a_table_that_names_it_and_both_directions() -> None:
    def shown(protocol: str, recall: float) -> ProtocolTable:
        chance = chance_row([5] * 4, protocol)
        recalls = {1: recall, 5: 1.0, 10: 1.0}
        row = chance.model_copy(update={"setting": "zero-shot", "image_to_text": recalls, "text_to_image": recalls})
        return ProtocolTable(chance=chance, row=SettingRow.model_validate(row.model_dump()))

    main, other = shown("all", 0.25), shown("folds:2", 0.75)
    extended = main.row.model_copy(
        update={
            "positives": "eccv (2 image and 3 caption queries)",
            "image_to_text_map_at_r": 0.125,
            "text_to_image_r_precision": 0.375,
            "intervals": {"image_to_text_map_at_r": (0.0, 0.25)},
        }
    )
    row = HistoryRow(
        setting="zero-shot",
        run="pretrain-1",
        dataset="retrieval",
        split="test",
        seed=0,
        metrics={},
        checkpoint_fingerprint="c",
        data_fingerprint="d",
        code_version="1",
        created_at="2026-01-01T00:00:00+00:00",
    )
    result = RetrievalResult(
        row=row,
        table_row=main.row,
        chance=main.chance,
        also=(other,),
        positives=(PositivesTable(row=extended, path="scores/e/positives-1.json", unscored="eccv: not scored: 7"),),
        fall=None,
        comparison="recall sum 450.0, the first",
        report_path="scores/e/report.html",
        skipped=True,
    )
    text = evaluation_text(result)
    assert text.count("image-to-text") == text.count("text-to-image") == 3
    assert text.index("4 images x 20 captions") < text.index("ean of 2 folds of 2 images (20 captions in all)")
    by_others = text[text.index("in all)") :]
    assert "R@10  mAP@R" in by_others and "R-P" in by_others and "12.5" in by_others and "37.5" in by_others
    assert "±12.5" in by_others and "round truth: eccv (2 image and 3 caption queries). Recall@k" in by_others
    assert by_others.index("R-P is the share") < by_others.index("eccv: not scored: 7")
    assert text.endswith("scored before; recall sum 450.0, the first\nreport: scores/e/report.html")
