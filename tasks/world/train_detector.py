"""Train the demo's small detector on freshly drawn scenes: python -m tasks.world.train_detector --output FILE

The trained weights ship beside this file, so the demo does not need this. 1,000 steps of 16 scenes take about five
minutes of one CPU core.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import detect_images
from feature_extraction.detectors.torchvision_detector import (
    TorchvisionDetector,
    build_small_detector,
    save_small_weights,
)
from tasks.world.scenes import LABELS, Scene, render_scene

logger = logging.getLogger(__name__)

SCENES_A_STEP = 16
PEAK_LEARNING_RATE = 2e-3
MIN_OBJECTS, MAX_OBJECTS = 1, 5
EVALUATION_SCENES = 150
EVALUATION_REGIONS = 12
"""Scenes are judged by their twelve best regions, as many as the demo extracts."""


@dataclass(frozen=True)
class DetectorQuality:
    """Shares of the drawn objects, in [0, 1]: found by a region of IoU >= .5, and found with the right label."""

    localised: float
    labelled: float


def train_small_detector(steps: int, seed: int) -> FasterRCNN:
    """Train from random weights on `steps` batches of scenes, none shown twice."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 0])
    model = build_small_detector(len(LABELS)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.15, cycle_momentum=False
    )
    for step in range(1, steps + 1):
        scenes = [render_scene(rng, MIN_OBJECTS, MAX_OBJECTS) for _ in range(SCENES_A_STEP)]
        losses: dict[str, Tensor] = model([_pixels(scene) for scene in scenes], [_truth(scene) for scene in scenes])
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            parts = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            logger.info("step %d of %d: loss %.3f (%s)", step, steps, loss.item(), parts)
    return model


def measure_detector(weights: Path, scenes: int, seed: int) -> DetectorQuality:
    """Measure how well a stored detector finds the objects of fresh scenes.

    The path is that of extraction.

    An object counts as found if the region that overlaps it most does so with an IoU of at least .5.
    """
    config = ExtractorConfig(
        backend="torchvision", model="small", weights=str(weights), max_regions=EVALUATION_REGIONS, device="cpu"
    )
    detector = TorchvisionDetector(config, torch.device("cpu"))
    rng = np.random.default_rng([seed, 1])
    objects = localised = labelled = 0
    for _ in range(scenes):
        scene = render_scene(rng, MIN_OBJECTS, MAX_OBJECTS)
        (found,) = detect_images(detector, [np.asarray(scene.image)])
        for item in scene.objects:
            objects += 1
            overlaps = _overlaps(np.array(item.box), found.boxes)
            if overlaps.size and overlaps.max() >= 0.5:
                localised += 1
                labelled += int(found.labels[overlaps.argmax()] == item.label)
    return DetectorQuality(localised / objects, labelled / objects)


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one box (4,) with each of boxes (R, 4)."""
    shared = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = shared.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    overlaps: np.ndarray = intersection / ((box[2:] - box[:2]).prod() + areas - intersection)
    return overlaps


def _pixels(scene: Scene) -> Tensor:
    return torch.from_numpy(np.array(scene.image)).permute(2, 0, 1).float() / 255


def _truth(scene: Scene) -> dict[str, Tensor]:
    """Boxes and labels as torchvision trains on them: class 0 is the background."""
    return {
        "boxes": torch.tensor([item.box for item in scene.objects], dtype=torch.float32),
        "labels": torch.tensor([item.label + 1 for item in scene.objects], dtype=torch.int64),
    }


def main() -> None:
    """Train, measure on fresh scenes, and write the weights with the measures in their metadata."""
    parser = argparse.ArgumentParser(description="Train the demo's small detector.")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=1000, help=f"batches of {SCENES_A_STEP} scenes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    model = train_small_detector(arguments.steps, arguments.seed)
    about = {"steps": str(arguments.steps), "seed": str(arguments.seed)}
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / "trained.safetensors"
        save_small_weights(model, trained, LABELS, about)
        quality = measure_detector(trained, EVALUATION_SCENES, arguments.seed)
    logger.info(
        "%d fresh scenes: %.1f%% found, %.1f%% with the right label",
        EVALUATION_SCENES,
        100 * quality.localised,
        100 * quality.labelled,
    )
    about |= {
        "evaluation_scenes": str(EVALUATION_SCENES),
        "localised": f"{quality.localised:.4f}",
        "labelled": f"{quality.labelled:.4f}",
    }
    save_small_weights(model, arguments.output, LABELS, about)


if __name__ == "__main__":
    main()
