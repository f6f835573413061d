"""Feature files as other programs write them, self-made and small."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def text(array: npt.ArrayLike, dtype: str) -> str:
    """Base64 of an array's bytes."""
    return base64.b64encode(np.asarray(array, dtype).tobytes()).decode()


def made(number: int, count: int, dim: int = 8) -> dict[str, Any]:
    """Regions of a made-up picture of 200 x 100 pixels: boxes inside it, scores in no order, features >= 0."""
    random = np.random.default_rng(number)
    corners = np.sort(random.uniform(0, 1, (count, 2, 2)), axis=1) * [200, 100]
    return {
        "boxes": corners.reshape(count, 4).astype(np.float32),
        "labels": random.integers(0, 20, count),
        "scores": random.uniform(0.1, 0.9, count).astype(np.float32),
        "features": np.maximum(random.normal(size=(count, dim)), 0).astype(np.float32),
    }


def lxmert_line(
    image_id: str, regions: dict[str, Any], size: tuple[int, int] = (200, 100), numbers: str = "<f4", boxes: str = "<f4"
) -> str:
    """A row; `numbers` are those of its features, `boxes` those of its boxes and scores."""
    count = len(regions["boxes"])
    fields = [
        image_id, str(size[1]), str(size[0]), text(regions["labels"], "<i8"), text(regions["scores"], boxes),
        text(np.zeros(count), "<i8"), text(np.zeros(count), "<f4"), str(count), text(regions["boxes"], boxes),
        text(regions["features"], numbers),
    ]  # fmt: skip
    return "\t".join(fields) + "\n"


def lxmert_file(path: Path, ids: Sequence[str], count: int = 3, dim: int = 8) -> Path:
    """A TSV of pictures with these ids; the regions of number n are made(n)."""
    path.write_text("".join(lxmert_line(image_id, made(n, count, dim)) for n, image_id in enumerate(ids)))
    return path


def vinvl_lines(image_id: str, regions: dict[str, Any], names: Sequence[str], numbers: str = "<f4") -> tuple[str, str]:
    """A line of features.tsv, with the geometry of a 200 x 100 picture, and one of label.tsv."""
    shares = regions["boxes"] / np.array([200, 100, 200, 100], np.float32)
    rows = np.concatenate([regions["features"], shares, shares[:, 2:] - shares[:, :2]], axis=1)
    features = {"num_boxes": len(rows), "features": text(rows, numbers)}
    labels = [
        {"class": name, "rect": [float(value) for value in box], "conf": float(score)}
        for name, box, score in zip(names, regions["boxes"], regions["scores"], strict=True)
    ]
    return f"{image_id}\t{json.dumps(features)}\n", f"{image_id}\t{json.dumps(labels)}\n"
