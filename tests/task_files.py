"""Published rows of the downstream tasks (tests/golden/tasks/), and predictions that simple rules make of them."""

from __future__ import annotations

import csv
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS = Path(__file__).parent / "golden" / "tasks"
Box = tuple[float, float, float, float]


def text(name: str) -> str:
    content = (ROWS / name).read_bytes()
    return (lzma.decompress(content) if name.endswith(".xz") else content).decode()


def vqa_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(text("vqa_annotations.json.xz"))["annotations"]
    return rows


def nlvr2_rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in text("nlvr2_balanced_dev.json.xz").splitlines()]


def write_json(path: Path, content: object) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def write_refcoco(folder: Path, name: str, pick: Callable[[Box], float]) -> tuple[str, str, str]:
    """A split in the official layout, and predictions: of a picture's referred boxes the first with the least value.

    Returns:
        Paths of predictions, refs and instances.
    """
    rows = list(csv.DictReader(io.StringIO(text(f"{name}.csv.xz"))))
    boxes: dict[str, dict[Box, None]] = {}
    refs: dict[str, dict[str, Any]] = {}
    annotations = []
    for row in rows:
        box = tuple(json.loads(row["bbox"]))
        boxes.setdefault(row["img_id"], {})[box] = None
        number, image = int(row["ref_id"]), int(row["img_id"])
        if row["ref_id"] not in refs:
            refs[row["ref_id"]] = {
                "ref_id": number,
                "ann_id": number,
                "image_id": image,
                "split": "val",
                "sentences": [],
            }
            annotations.append({"id": number, "image_id": image, "bbox": box})
        refs[row["ref_id"]]["sentences"].append({"sent_id": int(row["sent_id"])})
    predictions = [{"sent_id": int(row["sent_id"]), "pred_box": min(boxes[row["img_id"]], key=pick)} for row in rows]
    return (
        write_json(folder / "predictions.json", predictions),
        write_json(folder / "refs.json", list(refs.values())),
        write_json(folder / "instances.json", {"annotations": annotations}),
    )
