"""torchvision's Faster R-CNN behind the `Detector` interface: the demo's small one, and torchvision's own.

torchvision's class 0 is the background and its pictures are RGB in 0..1; here the background is a separate
probability and foreground classes count from 0.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from feature_extraction.config import RANDOM_WARNING, TORCHVISION_MODELS, ExtractorConfig
from feature_extraction.detectors import torchvision_models
from feature_extraction.detectors.interface import (
    Classified,
    Detections,
    Image,
    Prepared,
    autocast,
    check_shapes,
    keep_regions,
)
from feature_extraction.detectors.torchvision_models import load_torchvision_model
from feature_extraction.detectors.vocabulary import check_length, read_vocabulary
from feature_extraction.weight_files import WeightsError, check_numbers, content_problem

logger = logging.getLogger(__name__)

Maps = OrderedDict[str, torch.Tensor]
"""Feature maps of a batch by the name of their level."""

SMALL = "small"
SIDE = 128
FEATURE_DIM = 128
LABELS_KEY = "labels"


def build_small_detector(num_classes: int, num_proposals: int = 300) -> FasterRCNN:
    """A Faster R-CNN that trains on a CPU in minutes: about 628,000 parameters at 64 classes.

    Five convolutions (24-48-64-96-96 channels, stride 8), four square anchors a place, RoIAlign 5x5 and a two-layer
    head of width 128. A picture's shorter side is brought to 128 pixels, so 128x128 ones pass unchanged.

    Args:
        num_classes: foreground classes C; the classifier has C + 1 outputs, the background first.
        num_proposals: proposals classified per picture outside training.
    """
    backbone = nn.Sequential(
        *_convolution(3, 24, stride=2),
        *_convolution(24, 48, stride=2),
        *_convolution(48, 64, stride=2),
        *_convolution(64, 96, stride=1),
        *_convolution(96, 96, stride=1),
    )
    # FasterRCNN reads the width of the feature map from this attribute.
    setattr(backbone, "out_channels", 96)  # noqa: B010 - a plain assignment would be one of a submodule, to mypy
    return FasterRCNN(
        backbone,
        min_size=SIDE,
        max_size=4 * SIDE,
        rpn_anchor_generator=AnchorGenerator(sizes=((14, 20, 28, 38),), aspect_ratios=((1.0,),)),
        rpn_pre_nms_top_n_train=400,
        rpn_post_nms_top_n_train=150,
        rpn_batch_size_per_image=64,
        # About a quarter outlives the proposals' own NMS, whose time grows with the square of their count.
        rpn_pre_nms_top_n_test=4 * num_proposals,
        rpn_post_nms_top_n_test=num_proposals,
        box_roi_pool=MultiScaleRoIAlign(featmap_names=["0"], output_size=5, sampling_ratio=2),
        box_head=TwoMLPHead(96 * 5 * 5, FEATURE_DIM),
        box_predictor=FastRCNNPredictor(FEATURE_DIM, num_classes + 1),
        box_batch_size_per_image=64,
    )


def _convolution(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def save_small_weights(model: FasterRCNN, path: Path, labels: Sequence[str], about: Mapping[str, str]) -> None:
    """Write the weights in half precision as safetensors.

    The metadata hold the label names and `about`.

    Batch statistics are stored as they are; the count of batches that made them is not needed to detect.
    """
    tensors = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }
    path.write_bytes(save(tensors, metadata={**about, LABELS_KEY: "\n".join(labels)}))


def load_small_detector(path: Path, num_proposals: int = 300) -> tuple[FasterRCNN, tuple[str, ...]]:
    """Load the small detector in single precision, ready to detect, with its label names.

    Raises:
        ValueError: the file is not such a detector's: unreadable, without label names, or with missing, unexpected
            or mis-shaped weights.
    """
    try:
        if (problem := content_problem(path)) is not None:
            raise ValueError(f"weights {path} cannot be loaded: the file {problem}")
        with safe_open(path, framework="pt") as file:
            labels = tuple((file.metadata() or {}).get(LABELS_KEY, "").split("\n"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
        check_numbers(tensors)
    except WeightsError as error:
        raise ValueError(f"weights {path} cannot be loaded: the file {error}") from error
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"weights {path} cannot be read ({error}); make them with: python -m tasks.world.train_detector"
        ) from error
    if labels == ("",):
        raise ValueError(f"weights {path} name no labels; they are not those of the small detector")
    model = build_small_detector(len(labels), num_proposals)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"weights {path} do not fit the small detector with {len(labels)} labels: keys that differ: {len(wrong)}, "
            f"first {name}: {_shape(found.get(name))} in the file, {_shape(expected.get(name))} in the model"
        )
    # Left out are counts of batches, which detection does not use.
    model.load_state_dict(tensors, strict=False)
    return model.eval(), labels


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))


class TorchvisionDetector:
    """A Faster R-CNN of torchvision behind the `Detector` interface.

    Features are the box head's outputs, after its ReLU: 128-d of the small detector, 1024-d of torchvision's own.
    """

    def __init__(self, config: ExtractorConfig, device: torch.device) -> None:
        """Load the detector that `config` names onto `device`.

        Raises:
            ValueError: unknown model, no or unfit weights, or a vocabulary of another length.
        """
        if config.model == SMALL:
            model, self.labels = _load_small(config)
            self.feature_dim, outputs = FEATURE_DIM, list(range(1, len(self.labels) + 1))
        elif config.model in TORCHVISION_MODELS:
            model, self.labels, outputs = load_torchvision_model(config)
            self.feature_dim = torchvision_models.FEATURE_DIM
        else:
            raise ValueError(
                f"extractor.model={config.model!r} is no torchvision detector of ours; "
                f"set extractor.model='{SMALL}' or one of {', '.join(TORCHVISION_MODELS)}, "
                "or extractor.backend='detectron2'"
            )
        self._outputs = torch.tensor(outputs, device=device)
        self._model = model.to(device)
        self.device = device
        self._config = config

    def prepare(self, image: Image) -> Prepared:
        """The image as it is: torchvision's models resize on the device."""
        return Prepared(image, (image.shape[1], image.shape[0]))

    @torch.inference_mode()
    def detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
        """Regions of pictures of equal shape; see `Detector.detect`."""
        height, width = check_shapes(pictures)
        pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
        pixels = pixels.to(self.device).permute(0, 3, 1, 2).float() / 255
        batch, _ = self._model.transform(list(pixels))
        with autocast(self.device, self._config):
            maps = self._model.backbone(batch.tensors)
        if isinstance(maps, torch.Tensor):
            maps = {"0": maps}
        maps = OrderedDict((name, one.float()) for name, one in maps.items())
        proposals, _ = self._model.rpn(batch, maps)
        resized_height, resized_width = batch.image_sizes[0]
        scale = pixels.new_tensor([width / resized_width, height / resized_height] * 2)
        vectors = self._pool(maps, proposals, batch.image_sizes)
        head = self._model.roi_heads
        logits, deltas = head.box_predictor(vectors)
        probabilities = logits.softmax(dim=1)
        refined = head.box_coder.decode(deltas, proposals)
        counts = [len(one) for one in proposals]
        found = [
            Classified(
                probabilities=image_probabilities[:, self._outputs],
                background=image_probabilities[:, 0],
                proposals=image_proposals * scale,
                refined=image_boxes[:, self._outputs] * scale,
                vectors=image_vectors,
                size=(width, height),
            )
            for image_probabilities, image_proposals, image_boxes, image_vectors in zip(
                probabilities.split(counts), proposals, refined.split(counts), torch.split(vectors, counts), strict=True
            )
        ]
        return [self._keep(one, place, maps, scale, batch.image_sizes[0]) for place, one in enumerate(found)]

    def _keep(
        self, found: Classified, place: int, maps: Maps, scale: torch.Tensor, resized: tuple[int, int]
    ) -> Detections:
        """Regions of the image at `place` of the batch, scaled to the original."""
        own = OrderedDict((name, one[place : place + 1]) for name, one in maps.items())
        return keep_regions(found, self._config, lambda boxes: self._pool(own, [boxes / scale], [resized]))

    def _pool(self, maps: Maps, boxes: list[torch.Tensor], resized: list[tuple[int, int]]) -> torch.Tensor:
        """The classifier's input vectors (sum of N, D) for each image's boxes (N, 4).

        Boxes are in pixels of the resized images.
        """
        head = self._model.roi_heads
        pooled = head.box_roi_pool(maps, boxes, resized)
        with autocast(self.device, self._config):
            vectors: torch.Tensor = head.box_head(pooled)
        return vectors.float()


def _load_small(config: ExtractorConfig) -> tuple[FasterRCNN, tuple[str, ...]]:
    if config.weights is None:
        raise ValueError("extractor.weights is not set, and the small detector has no default; give their path")
    names = None if config.vocabulary is None else read_vocabulary(Path(config.vocabulary))
    if config.random_seed is not None:
        if names is None:
            raise ValueError("extractor.vocabulary is not set, and random weights name no labels; give its path")
        logger.warning("extractor.model=%s has %s", config.model, RANDOM_WARNING)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.random_seed)
            return build_small_detector(len(names), config.num_proposals).eval(), names
    model, labels = load_small_detector(Path(config.weights), config.num_proposals)
    return model, labels if names is None else check_length(names, len(labels), f"vocabulary {config.vocabulary}")
