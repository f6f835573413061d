"""What came of an experiment, in words: for the terminal, the report and the card on Prefect's page."""

from __future__ import annotations

from flows.params.recipes import recipe
from flows.results import SHARD_FAILED, FailedShard, RebuildResult, StageSummary
from flows.views.result_card import rebuild_card, stage_rows, table_rows
from flows.views.stage_texts import done_text, losses
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.records import ShardRef, Stage
from tasks.reports.retrieval.tables import retrieval_table

CHANCE = SettingRow(
    setting="chance",
    image_to_text={1: 0.01, 5: 0.05},
    text_to_image={1: 0.01, 5: 0.05},
    images=100,
    captions=500,
    seed=None,
)
TRAINED = CHANCE.model_copy(
    update={
        "setting": "zero-shot",
        "image_to_text": {1: 0.26, 5: 0.57},
        "seed": 0,
        "intervals": {"image_to_text_r1": (0.17, 0.35), "recall_sum": (0.8, 1.0)},
    }
)


def failed(shard: int) -> FailedShard:
    return FailedShard(ref=ShardRef(dataset="web", split="train", shard=shard), reason="it is locked")


DOWNLOAD = StageSummary(
    stage=Stage.DOWNLOAD,
    name="web/train",
    ran=1,
    skipped=3,
    counts={"ok": 30, "not_found": 2, SHARD_FAILED: 8},
    failed=(failed(2),),
)
EXTRACT = StageSummary(
    stage=Stage.EXTRACT,
    name="web/train",
    ran=3,
    skipped=0,
    counts={"ok": 20, "regions": 70, SHARD_FAILED: 9},
    failed=(failed(2), failed(4)),
)
PRETRAIN = StageSummary(stage=Stage.PRETRAIN, name="pretrain-0123456789ab", ran=0, skipped=1)
EVALUATIONS = [StageSummary(stage=Stage.EVALUATE, name=name, ran=1, skipped=0) for name in ("zero-shot", "other")]
STAGES = (DOWNLOAD, EXTRACT, PRETRAIN, *EVALUATIONS)


def test_recalls_are_percent_with_half_of_the_interval() -> None:
    chance, trained = table_rows(retrieval_table([CHANCE, TRAINED]))
    assert trained == {
        "setting": "`zero-shot`",
        "i2t R@1": "26.0 ± 9.0",
        "i2t R@5": "57.0",
        "t2i R@1": "1.0",
        "t2i R@5": "5.0",
        "sum": "89.0 ± 10.0",
    }
    assert list(chance) == list(trained)


def test_what_other_ground_truths_measured_stands_beside_the_recalls() -> None:
    measured = {"image_to_text_map_at_r": 0.125, "text_to_image_r_precision": 0.25}
    shown = TRAINED.model_copy(update={**measured, "intervals": {"image_to_text_map_at_r": (0.1, 0.2)}})
    (row,) = table_rows(retrieval_table([shown]))
    assert list(row) == ["setting", "i2t R@1", "i2t R@5", "i2t mAP@R", "t2i R@1", "t2i R@5", "t2i R-P", "sum"]
    assert (row["i2t mAP@R"], row["t2i R-P"]) == ("12.5 ± 5.0", "25.0")


def test_what_was_done_now_and_before_is_told_apart() -> None:
    assert done_text(STAGES) == "1 download shard, 3 extract shards, 2 evaluations"
    assert done_text(STAGES, skipped=True) == "3 download shards, 1 pretrain run"
    assert done_text([], skipped=True) == "nothing"
    assert stage_rows([DOWNLOAD])[0] == {
        "stage": "download",
        "of": "`web/train`",
        "done now": "1",
        "done before": "3",
        "failed": "1",
    }


def test_a_shard_is_lost_once_where_its_download_failed() -> None:
    assert losses(STAGES) == [
        "download of web/train went on without 1 of 5 shards (8 rows), which failed: 00002",
        "extract of web/train went on without 1 of 5 shards (9 images), which failed: 00004",
    ]


def test_the_card_tells_what_was_trained_on_what_and_what_is_missing() -> None:
    params = recipe("demo", "my data/[x](y)")
    result = RebuildResult(
        root_uri=params.root_uri,
        table=(CHANCE, TRAINED),
        outcomes={"web/train": DOWNLOAD.counts},
        stages=STAGES,
        report_path="my data/[x](y)/report.html",
        seconds=61,
    )
    card = rebuild_card(
        params, result, [retrieval_table((CHANCE, TRAINED))], ["Matching was no better than a guess"], ["p left 2 out"]
    )
    for text in (
        "# Retrieval on `retrieval/test`\n",
        "Pretrained on `web/train`, finetuned on `retrieval/train`, under `my data/[x](y)` on ",
        "| `zero-shot` | 26.0 ± 9.0 | 57.0 | 1.0 | 5.0 | 89.0 ± 10.0 |",
        "100 images x 500 captions.",
        "\n\n**Warning.** Matching was no better than a guess.\n\n",
        "## Made without all of the data\n\n- download of web\\/train went on without 1 of 5 shards \\(8 rows\\)",
        "\n- p left 2 out\n",
        "- `web/train`: 30 of 40 have an image; lost: 8 shard_failed, 2 not_found",
        "## This run (1 min 1 s)",
        "| pretrain | `pretrain-0123456789ab` | 0 | 1 | 0 |",
        "`my data/[x](y)/report.html`",
        "unicoder-vl history --root 'my data/[x](y)'\n",
    ):
        assert text in card
    assert "`[x](y)`" not in card  # Never but within a longer code.
