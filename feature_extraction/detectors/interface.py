"""The detector interface, and what all detectors share: device, precision, selection of regions.

By default the feature of a region is the vector that its classifier saw, pooled at the proposal, as in every published
Visual Genome extractor, while the box is the refined one. `feature_at` and `box` of the config choose otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.selection import Float, best_labels, select_regions

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("feature_extraction.detector")

Image = npt.NDArray[np.uint8]
"""A picture: (H, W, 3), red first."""


@dataclass(frozen=True)
class Prepared:
    """A picture in its network's form, and its original size.

    `pixels` (H, W, 3) may be resized, and have another order of channels; `size` is (width, height) of the stored
    image.
    """

    pixels: Image
    size: tuple[int, int]


@dataclass(frozen=True)
class Detections:
    """Regions of one image, best score first; shapes as in `RegionSample`."""

    boxes: Float
    labels: npt.NDArray[np.int16]
    scores: Float
    background: Float
    features: Float
    top_labels: npt.NDArray[np.int16] | None = None
    top_scores: Float | None = None
    class_scores: Float | None = None


@dataclass(frozen=True)
class Classified:
    """The proposals of one image after the classifier, on their device.

    Shapes: probabilities (P, C) of the foreground classes; background (P,); proposals (P, 4); refined (P, C, 4), or
    (P, 1, 4) where refinement does not depend on the class; vectors (P, D) that were classified. Boxes are in pixels
    of the stored image of `size` (width, height).
    """

    probabilities: torch.Tensor
    background: torch.Tensor
    proposals: torch.Tensor
    refined: torch.Tensor
    vectors: torch.Tensor
    size: tuple[int, int]


class Detector(Protocol):
    """Finds regions.

    `labels` names the foreground classes, `feature_dim` is D, `device` is where the network is.
    """

    labels: tuple[str, ...]
    feature_dim: int
    device: torch.device

    def prepare(self, image: Image) -> Prepared:
        """Do on the host whatever can be done to an image before its turn.

        Several threads may call it at once.
        """

    def detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
        """Regions of each picture, up to the config's max_regions; none is legal.

        All `pixels` have one shape: padding a smaller picture would change its regions. On a GPU two threads may call
        this at once.

        Raises:
            ValueError: shapes differ, or the network gave something that is not finite.
        """


def pick_device(name: str) -> torch.device:
    """The device called auto, cpu, cuda or cuda:N; auto is the first GPU where there is one.

    Raises:
        ValueError: the name is none of these, or there is no such GPU.
    """
    import torch

    gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda:0" if gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"extractor.device={name!r} is no device; give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"extractor.device={name!r} is no device of ours; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ValueError(f"extractor.device={name!r}, but this machine has {gpus} GPUs; give auto or cpu")
    return device


def lacks_bf16(device: torch.device) -> bool:
    """True for a CPU without bf16 instructions.

    Software bf16 was measured to be 36 times slower than fp32.
    """
    import torch

    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2")


def detect_images(detector: Detector, images: Sequence[Image]) -> list[Detections]:
    """Prepare images of one shape and detect their regions."""
    return detector.detect([detector.prepare(image) for image in images])


def check_shapes(pictures: Sequence[Prepared]) -> tuple[int, int]:
    """(height, width) of the pixels of pictures that all have one shape.

    Raises:
        ValueError: there are none, their shapes differ, or they are not (H, W, 3) bytes.
    """
    shapes = {picture.pixels.shape for picture in pictures}
    if len(shapes) != 1:
        raise ValueError(f"one detector call takes pictures of one shape, not {sorted(shapes)}")
    shape = shapes.pop()
    if len(shape) != 3 or shape[2] != 3 or any(picture.pixels.dtype != np.uint8 for picture in pictures):
        raise ValueError(f"a detector takes (H, W, 3) bytes, not {shape}")
    return shape[0], shape[1]


def autocast(device: torch.device, config: ExtractorConfig) -> torch.autocast:
    """The context in which backbone and box head run: bf16 where the config says so."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def keep_regions(
    found: Classified, config: ExtractorConfig, pool: Callable[[torch.Tensor], torch.Tensor]
) -> Detections:
    """Select regions by the config's rule, and fetch their features from the device.

    Args:
        found: the image's proposals.
        config: the rule, and where the feature is pooled.
        pool: boxes (R, 4) in pixels of the stored image -> their vectors (R, D).
    """
    import torch

    device = found.vectors.device
    probabilities = found.probabilities.float().cpu().numpy()
    boxes = found.proposals[:, None] if config.box == "proposal" else found.refined
    if config.selection == "argmax" and boxes.shape[1] > 1:
        # Only these are looked at; all boxes of 300 proposals for 1,600 classes would be 8 MB to fetch.
        best = torch.from_numpy(probabilities.argmax(axis=1)).to(device)
        boxes = boxes[torch.arange(len(best), device=device), best][:, None]
    kept = select_regions(
        probabilities,
        found.background.float().cpu().numpy(),
        boxes.float().cpu().numpy(),
        found.size,
        rule=config.selection,
        nms_threshold=config.nms_threshold,
        max_regions=config.max_regions,
        min_score=config.min_score,
        min_regions=config.min_regions,
    )
    if config.feature_at == "final":
        vectors = pool(torch.from_numpy(kept.boxes).to(device))
    else:
        vectors = found.vectors[torch.from_numpy(kept.proposals).to(device)]
    top_labels = top_scores = class_scores = None
    if config.num_top:
        top_labels, top_scores = best_labels(probabilities[kept.proposals], config.num_top)
    if config.class_scores == "all":
        class_scores = _distributions(probabilities[kept.proposals], kept.background)
    return Detections(
        kept.boxes,
        kept.labels,
        kept.scores,
        kept.background,
        vectors.float().cpu().numpy(),
        top_labels,
        top_scores,
        class_scores,
    )


def _distributions(probabilities: Float, background: Float) -> Float:
    """Distributions (R, 1 + C), the background first.

    The outputs of torchvision's COCO models that stand for no class leave their share to the foreground, as it is.
    """
    total = probabilities.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, probabilities / np.where(total > 0, total, 1), 1 / probabilities.shape[1])
    found: Float = np.concatenate([background[:, None], shares * (1 - background[:, None])], axis=1, dtype=np.float32)
    return found
