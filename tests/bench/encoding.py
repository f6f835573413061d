"""What sqrt8 loses and saves, on published bottom-up-attention features of real photographs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feature_extraction.samples.regions import RegionLayout, dequantise, quantise

FEATURES = Path(__file__).parents[3] / "shared/data/bottom_up_attention/caffe_coco_features/train2014_obj36.tsv"
REGIONS, WIDTH = 100, 2048
_FEATURES = 9  # column of the TSV

Float = npt.NDArray[np.float32]


def run() -> Iterator[str]:
    sqrt8, fp16 = (RegionLayout(REGIONS, WIDTH, encoding).tar_bytes for encoding in ("sqrt8", "fp16"))
    yield (
        f"{sqrt8:,} bytes a sample of {REGIONS} x {WIDTH} in its tar: {sqrt8 / fp16:.3f} x fp16 in the same record "
        f"({fp16:,})"
    )
    if not FEATURES.is_file():
        yield "relative error skipped: no real features beside the project (shared/data/bottom_up_attention)"
        return
    features = read_features(FEATURES)
    ours = relative_error(features, dequantise(*quantise(features)))
    yield f"relative L2 error {ours:.4f} on {len(features)} real regions ({np.mean(features == 0):.0%} exact zeros)"
    for name, stored in (("linear int8, scale per region", _linear(features)), ("fp16", _half(features))):
        error = relative_error(features, stored)
        yield f"  {ours / error:.2f} x {name} ({error:.4f})"


def read_features(path: Path) -> Float:
    """(N, 2048) rows of a TSV whose last column is base64 of f32."""
    rows = []
    for line in path.read_text().splitlines():
        columns = line.split("\t")
        rows.append(np.frombuffer(base64.b64decode(columns[_FEATURES]), np.float32).reshape(-1, WIDTH))
    return np.concatenate(rows)


def relative_error(features: Float, stored: Float) -> float:
    return float(np.linalg.norm(features - stored) / np.linalg.norm(features))


def _linear(features: Float) -> Float:
    scale = features.max(axis=1, keepdims=True)
    return (np.rint(features / scale * 255) * scale / 255).astype(np.float32)


def _half(features: Float) -> Float:
    return features.astype(np.float16).astype(np.float32)
