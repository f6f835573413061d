"""Detectron2's own loop against ours, bf16 against fp32, and the shortcut of `maxconf` against the loop over classes.

The network is R50-C4 with random weights, on noise with a few edges: at full size on a GPU, at 320 pixels on a CPU.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou, nms

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import Detections, Detector, Image, detect_images, lacks_bf16
from feature_extraction.detectors.load import load_detector
from feature_extraction.detectors.selection import Float, select_regions
from feature_extraction.extract import BusyClock
from tests.bench.clock import cpu_cost
from tests.bench.photos import write_photos
from tests.bench.pipeline import photo_sample, write_shard

PROPOSALS, CLASSES, REGIONS = 300, 1600, 100


def run() -> Iterator[str]:
    yield from _shortcut()
    if find_spec("detectron2") is None:
        yield "detector skipped: Detectron2 is not installed (see the extra 'detectron2')"
        return
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        config = _network(Path(folder), 800 if on_gpu else 320)
        images = _pictures(32 if on_gpu else 2)
        yield from _gpu(config, images) if on_gpu else _cpu(config, images)
        yield from _shard(config, Path(folder), 256 if on_gpu else 6)


# --- selection ------------------------------------------------------------------------------------------------------


def _shortcut() -> Iterator[str]:
    rng = np.random.default_rng(0)
    logits = np.exp(3 * rng.standard_normal((PROPOSALS, CLASSES + 1)).astype(np.float32))
    probabilities = logits / logits.sum(axis=1, keepdims=True)
    corner = rng.uniform(0, 400, (PROPOSALS, 1, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 200, corner.shape)], axis=2).astype(np.float32)

    def ours() -> Float:
        found = select_regions(
            probabilities[:, 1:],
            probabilities[:, 0],
            boxes,
            (600, 600),
            rule="maxconf",
            nms_threshold=0.3,
            max_regions=REGIONS,
        )
        return found.scores

    def loop() -> Float:
        best, all_scores, all_boxes = torch.zeros(PROPOSALS), torch.from_numpy(probabilities), torch.from_numpy(boxes)
        for label in range(1, CLASSES + 1):
            scores = all_scores[:, label]
            kept = nms(all_boxes[:, 0], scores, 0.3)
            best[kept] = torch.maximum(best[kept], scores[kept])
        return best.sort(descending=True).values[:REGIONS].numpy()

    assert np.array_equal(ours(), loop())
    cost, slow = cpu_cost(ours, 5), cpu_cost(loop, 3)
    yield (
        f"maxconf over {PROPOSALS} x {CLASSES}: {1000 * cost:.0f} ms CPU an image, {slow / cost:.0f} x faster than the "
        f"loop over the classes with torchvision's NMS ({1000 * slow:.0f} ms), same scores"
    )


# --- detector -------------------------------------------------------------------------------------------------------


def _network(folder: Path, short_side: int) -> ExtractorConfig:
    """A config file and random weights, so that both loops read the same ones."""
    from detectron2 import model_zoo

    from feature_extraction.detectors.detectron2_network import build_network

    cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_C4_3x.yaml")
    cfg.INPUT.MIN_SIZE_TEST = short_side
    (folder / "model.yaml").write_text(cfg.dump())
    config = ExtractorConfig(
        model=str(folder / "model.yaml"), weights="random", num_proposals=PROPOSALS, max_regions=REGIONS, batch_size=4
    )
    network = build_network(config, torch.device("cpu"))
    torch.save({"model": network.model.state_dict()}, folder / "weights.pth")
    return config.model_copy(update={"weights": str(folder / "weights.pth")})


def _pictures(count: int) -> list[Image]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count, 12, 16, 3), dtype=np.uint8).repeat(40, axis=1).repeat(40, axis=2)
    return list(coarse // 2 + rng.integers(0, 127, coarse.shape, dtype=np.uint8))


def _default_predictor(config: ExtractorConfig) -> Any:
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    cfg = get_cfg()
    cfg.merge_from_file(config.model)
    cfg.MODEL.WEIGHTS = config.weights
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = PROPOSALS
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    return DefaultPredictor(cfg)


def _all(detector: Detector, images: list[Image], batch_size: int) -> list[Detections]:
    return [
        found
        for start in range(0, len(images), batch_size)
        for found in detect_images(detector, images[start : start + batch_size])
    ]


def _cpu(config: ExtractorConfig, images: list[Image]) -> Iterator[str]:
    theirs, fp32 = _default_predictor(config), load_detector(config)
    # In turns, since the load of the machine changes within a minute.
    turns = [
        (
            cpu_cost(lambda: [theirs(image[:, :, ::-1]) for image in images], 1) / len(images),
            cpu_cost(lambda: _all(fp32, images, 4), 1) / len(images),
        )
        for _ in range(2)
    ]
    slow, cost = (min(costs) for costs in zip(*turns, strict=True))
    yield f"fp32 {cost:.2f} s CPU an image with features: {cost / slow:.2f} x DefaultPredictor without ({slow:.2f} s)"
    if lacks_bf16(torch.device("cpu")):
        yield "bf16 skipped: this CPU has no instructions for it"
        return
    bf16 = load_detector(config.model_copy(update={"precision": "bf16"}))
    half = cpu_cost(lambda: _all(bf16, images, 4), 2) / len(images)
    yield f"bf16 {half:.2f} s CPU an image: {half / cost:.2f} x fp32"
    yield _agreement(_all(fp32, images, 4), _all(bf16, images, 4))


def _gpu(config: ExtractorConfig, images: list[Image]) -> Iterator[str]:
    slow, slow_bytes = _gpu_cost(_default_predictor(config), [image[:, :, ::-1] for image in images])
    yield f"DefaultPredictor: {len(images) / slow:.1f} images/s without features, {slow_bytes / 2**30:.2f} GiB at most"
    exact: list[Detections] = []
    for precision in ("fp32", "bf16"):
        detector = load_detector(config.model_copy(update={"precision": precision}))
        for batch_size in (1, 4, 16):
            batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
            cost, used = _gpu_cost(partial(detect_images, detector), batches)
            yield (
                f"  {precision}, {batch_size} at a time: {len(images) / cost:.1f} images/s, {slow / cost:.2f} x that; "
                f"{used / 2**30:.2f} GiB"
            )
        found = _all(detector, images, 4)
        if precision == "bf16":
            yield _agreement(exact, found)
        exact = found


def _shard(config: ExtractorConfig, folder: Path, count: int) -> Iterator[str]:
    """Photographs to a shard on disk, as extraction does it."""
    made_of = write_photos(folder)
    files = sorted(folder.glob("*.jpg"))
    samples = [photo_sample(number, files[number % len(files)]) for number in range(count)]
    cores = len(os.sched_getaffinity(0))
    for precision in ("fp32", "bf16"):
        chosen = config.model_copy(update={"precision": precision})
        if precision == "bf16" and not torch.cuda.is_available():
            return
        detector, clock = load_detector(chosen), BusyClock()
        begun = time.perf_counter()
        write_shard(folder / "regions.tar", samples, detector, chosen, min(cores, 8), clock)
        rate = count / (time.perf_counter() - begun)
        yield f"{count} {made_of} to a shard, {precision}: {rate:.2f} images/s, the detector busy {clock.share:.1%}"


def _gpu_cost(detect: Callable[[Any], object], inputs: Sequence[object]) -> tuple[float, int]:
    """Wall seconds of the faster of two rounds after one that warms up, and the most GPU memory held, in bytes."""

    def work() -> None:
        for one in inputs:
            detect(one)

    work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    costs = []
    for _ in range(2):
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        costs.append(time.perf_counter() - begun)
    return min(costs), torch.cuda.max_memory_allocated()


def _agreement(exact: list[Detections], half: list[Detections]) -> str:
    matched, agreeing, cosines, total = 0, 0, [1.0], 0
    for one, other in zip(exact, half, strict=True):
        overlap, nearest = box_iou(torch.from_numpy(one.boxes), torch.from_numpy(other.boxes)).max(dim=1)
        rows, columns = np.flatnonzero(overlap > 0.9), nearest.numpy()
        total += len(one.boxes)
        matched += len(rows)
        agreeing += int((one.labels[rows] == other.labels[columns[rows]]).sum())
        left, right = one.features[rows], other.features[columns[rows]]
        cosines += ((left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)).tolist()
    return (
        f"  {matched / total:.0%} of its boxes matched (IoU > .9); of those labels agree {agreeing / matched:.4f}, "
        f"cosine {min(cosines):.4f} at least"
    )
