"""A whole evaluation on disk, small: seven pictures with regions and captions, their scores, a run and a history."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from feature_extraction.samples.images import ImageSample, encode_image
from feature_extraction.samples.manifest import FeatureManifest, ShardEntry
from feature_extraction.samples.tars import write_tar
from model.downstream.retrieval.metrics import measure
from model.downstream.retrieval.scores import Plan, Scores, begin_scores, write_block
from tasks.evaluation.evaluate import PositivesTable, ProtocolTable, evaluation_name
from tasks.evaluation.retrieval.chance import chance_row
from tasks.evaluation.retrieval.setting_row import setting_rows
from tasks.records import HistoryRow, Receipt, Stage
from tasks.reports.report import Scored, write_evaluation_report
from tasks.reports.retrieval.sections import evaluation_sections
from tasks.storage.paths import (
    captions_path,
    captions_receipt_path,
    feature_manifest_path,
    image_shard_path,
    region_receipt_name,
    region_shard_name,
    scores_folder,
)
from tasks.storage.root import Root, now
from tests.regions import DATASET, EXTRACTOR, FEATURES, LABELS, SIZE, SPLIT, publish_features, regions_of

IMAGES = 7
PER_SHARD = 4
KEYS = [f"{5 * number:09d}" for number in range(IMAGES)]
"""Five captions an image, so an image's key is every fifth row's."""
COLOURS = ("teal", "navy", "olive", "maroon", "purple", "gray", "gold")
RUN = "finetune-1"


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", SIZE, COLOURS[number]).save(stream, "JPEG")
    return stream.getvalue()


def publish_data(root: Root, texts: Sequence[tuple[int, str]], labels: Sequence[str] = LABELS) -> None:
    """Pictures, features and captions; image n has a box [n, 5, 20, 25] of label n % 2 and another one below the floor.

    Args:
        texts: (number of an image, caption) each.
        labels: names of the vocabulary.
    """
    for shard, start in enumerate(range(0, IMAGES, PER_SHARD)):
        numbers = range(start, min(start + PER_SHARD, IMAGES))
        images = [ImageSample(KEYS[n], "a caption", "http://a/b", SIZE, "0" * 64, picture(n)) for n in numbers]
        members = [member for image in images for member in encode_image(image)]
        root.publish(image_shard_path(DATASET, SPLIT, shard), lambda out, members=members: write_tar(out, members))
        regions = [
            regions_of(KEYS[n], labels=(n % 2, 2), scores=(0.9, 0.125), boxes=[[n, 5, 20, 25], [1, 1, 3, 3]])
            for n in numbers
        ]
        publish_features(root, shard, regions, labels=labels)
    entries = []
    for shard, samples in enumerate((PER_SHARD, IMAGES - PER_SHARD)):
        receipt = root.read_model(f"{FEATURES.folder}/{region_receipt_name(shard)}", Receipt)
        assert receipt is not None
        name = region_shard_name(shard)
        digest = receipt.files[name]
        entries.append(ShardEntry(name=name, samples=samples, bytes=digest.bytes, sha256=digest.sha256))
    manifest = FeatureManifest(
        max_regions=3,
        feature_dim=4,
        encoding="sqrt8",
        labels=tuple(labels),
        extractor=EXTRACTOR,
        extractor_details={},
        shards=tuple(entries),
    )
    root.publish_model(feature_manifest_path(EXTRACTOR, DATASET, SPLIT), manifest)
    table = pa.table(
        {
            "caption_id": caption_ids(len(texts)),
            "image_key": [KEYS[image] for image, _ in texts],
            "text": [text for _, text in texts],
            "split": [SPLIT] * len(texts),
        }
    )
    root.publish(captions_path(DATASET, SPLIT), lambda out: pq.write_table(table, out))
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset=DATASET,
        split=SPLIT,
        shard=0,
        fingerprint="d" * 64,
        counts={"ok": len(texts), "not_found": 3, "timeout": 1},
        files={},
        seconds=0.1,
        created_at=now(),
    )
    root.publish_model(captions_receipt_path(DATASET, SPLIT), receipt)


def caption_ids(count: int) -> list[str]:
    return [f"{number:09d}" for number in range(count)]


def publish_scores(root: Root, name: str, scores: np.ndarray, caption_image: Sequence[int], rows: int = 3) -> Scores:
    """Blocks of so many rows in ROOT/scores/NAME."""
    folder = Path(root.path(scores_folder(name)))
    plan = Plan(images=scores.shape[0], captions=scores.shape[1], rows=rows, identity={})
    images = np.array(caption_image, np.int64)
    begin_scores(folder, plan, KEYS[: len(scores)], caption_ids(scores.shape[1]), images)
    for block in range(plan.blocks):
        write_block(folder, plan, block, scores[list(plan.rows_of(block))].astype(np.float32))
    return Scores(folder)


def publish_evaluation(
    root: Root, scores: np.ndarray, caption_image: Sequence[int], setting: str = "pretrain+finetune"
) -> tuple[HistoryRow, list[ProtocolTable]]:
    """Scores, and a run and a row of the history to them."""
    row = HistoryRow(
        setting=setting,
        run=RUN,
        dataset=DATASET,
        split=SPLIT,
        seed=0,
        metrics={},
        checkpoint_fingerprint="c" * 64,
        data_fingerprint="d" * 64,
        code_version="0.1.0",
        created_at="2025-03-04T05:06:07+00:00",
    )
    name = evaluation_name(row.dataset, row.split, row.checkpoint_fingerprint, row.data_fingerprint)
    found = publish_scores(root, name, scores, caption_image)
    main, *others = measure(found, found.caption_image, ["all", "folds:3"])
    metrics = {**main.model_dump(mode="json"), "also": [other.model_dump(mode="json") for other in others]}
    row = row.model_copy(update={"metrics": metrics})
    root.append_line("history.jsonl", row.model_dump_json())
    root.publish_bytes(f"runs/{RUN}/job.json", json.dumps({"train": {"name": "web/train"}}).encode())
    lines = [{"step": step, "hinge": 1 / step, "hinge_accuracy": 1 - 1 / step} for step in (1, 2, 3)]
    root.publish_bytes(f"runs/{RUN}/metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    counts = np.bincount(caption_image).tolist()
    return row, [ProtocolTable(chance=chance_row(counts, shown.protocol), row=shown) for shown in setting_rows(row)]


def publish_page(
    root: Root, row: HistoryRow, tables: Sequence[ProtocolTable], positives: Sequence[PositivesTable] = ()
) -> str:
    """The page of an evaluation; its full name."""
    scored = Scored(row, EXTRACTOR)
    return write_evaluation_report(root, scored, evaluation_sections(root, scored, tables, positives))
