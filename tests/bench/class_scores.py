"""What a byte a class loses of a distribution, and what it takes: fourth roots against square roots and half floats.

On softmax outputs of random logits, which are known to be hard (flat ones have all their mass in small values), and on
those of detectors: the demo's, which was trained, and torchvision's with random weights, both on photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import detect_images
from feature_extraction.detectors.load import load_detector
from feature_extraction.samples.class_scores import (
    Float,
    dequantise_class_scores,
    quantise_class_scores,
    spread_best_classes,
)
from feature_extraction.samples.regions import RegionLayout

REPOSITORY = Path(__file__).parents[2]
PHOTOS = REPOSITORY.parent / "shared/data/coco/images"
REGIONS, WIDTH, CLASSES, ROWS = 100, 2048, 1600, 500
DEVIATIONS = (1, 2, 4, 8)
_MOST_PHOTOS = 16


def run() -> Iterator[str]:
    plain = RegionLayout(REGIONS, WIDTH, "sqrt8").tar_bytes
    for stored, more in (("all", {"num_classes": CLASSES}), ("top:10", {"num_top": 10})):
        size = RegionLayout(REGIONS, WIDTH, "sqrt8", **more).tar_bytes
        yield (
            f"class scores {stored}, {REGIONS} regions, {CLASSES:,} classes: {size - plain:,} bytes a picture, "
            f"{size / plain:.2f} x the record without ({plain:,})"
        )
    random = np.random.default_rng(0)
    for classes in (CLASSES, 80):
        for deviation in DEVIATIONS:
            logits = random.normal(0, deviation, (ROWS, 1 + classes))
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            rows = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
            yield from _errors(f"{classes:,} random logits of standard deviation {deviation}", rows)
    yield from _detectors()


def _detectors() -> Iterator[str]:
    photos = sorted(PHOTOS.glob("*.jpg"))[:_MOST_PHOTOS]
    if not photos:
        yield "detectors skipped: no photographs beside the project (shared/data/coco)"
        return
    images = [np.asarray(Image.open(path).convert("RGB")) for path in photos]
    small = {"model": "small", "weights": str(REPOSITORY / "tasks/world/detector.safetensors")}
    untrained = {"model": "fasterrcnn_mobilenet_v3_large_fpn", "weights": "random"}
    for name, fields in (("the demo's trained detector", small), ("torchvision's detector, random weights", untrained)):
        config = ExtractorConfig(backend="torchvision", device="cpu", class_scores="all", **fields)  # type: ignore[arg-type]
        detector = load_detector(config)
        found = [detect_images(detector, [image])[0].class_scores for image in images]
        rows = np.concatenate([one for one in found if one is not None])
        yield from _errors(f"{name} on {len(images)} photographs, {rows.shape[1] - 1} classes", rows)


def _errors(of: str, exact: Float) -> Iterator[str]:
    background = exact[:, 0].astype(np.float16).astype(np.float32)
    top = np.argsort(-exact[:, 1:], axis=1)[:, :10]
    best = np.take_along_axis(exact[:, 1:], top, axis=1).astype(np.float16).astype(np.float32)
    yield f"{of}: {len(exact):,} regions, largest probability {exact.max(axis=1).mean():.3f} on average"
    kinds: tuple[tuple[str, Callable[[], Float]], ...] = (
        ("fourth roots (ours)", lambda: dequantise_class_scores(quantise_class_scores(exact), background)),
        ("square roots, a byte", lambda: _square_roots(exact)),
        ("half floats, two bytes", lambda: _normalised(exact.astype(np.float16).astype(np.float32))),
        ("top:10, 40 bytes", lambda: _spread(top.astype(np.int16), best, background, exact)),
    )
    for name, decode in kinds:
        found = decode().astype(np.float64)
        distance = np.abs(found - exact).sum(axis=1) / 2
        divergence = kl(found, exact.astype(np.float64))
        yield (
            f"  {name}: total variation {distance.mean():.4f} on average, {distance.max():.4f} at most; "
            f"KL {divergence.mean():.1e}, {divergence.max():.1e}"
        )


def _spread(labels: npt.NDArray[np.int16], best: Float, background: Float, exact: Float) -> Float:
    found = np.empty_like(exact)
    spread_best_classes(labels, best, background, found)
    return found


def kl(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """KL(found || exact) of each row; what was rounded to 0 adds nothing."""
    tiny = 1e-45
    terms = found * np.log(np.maximum(found, tiny) / np.maximum(exact, tiny))
    return np.where(found > 0, terms, 0).sum(axis=1)


def _square_roots(exact: Float) -> Float:
    largest = exact.max(axis=1, keepdims=True)
    return _normalised(np.rint(255 * np.sqrt(exact / largest)) ** 2)


def _normalised(rows: Float) -> Float:
    return rows / rows.sum(axis=1, keepdims=True)
