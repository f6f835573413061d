"""A Faster R-CNN of Detectron2 behind the `Detector` interface. It and `detectron2_network` alone import Detectron2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from feature_extraction.config import VG_PRESET, ExtractorConfig
from feature_extraction.detector import Classified, Detections, Image, autocast, check_shapes, keep_regions
from feature_extraction.detectron2_network import build_network

RES5_CHUNK = 512
"""Most proposals that go through res5 at once: 1,000 of them would take 0.8 GB in fp32 before its first layer."""


class Detectron2Detector:
    """A network with a C4 head (feature: mean of res5, 2048-d) or an FPN or DC5 one (1024-d).

    The network's own pieces run one after the other instead of its `inference`, which throws features away, decodes
    every class of every proposal and may return one proposal twice. Up to the proposals they are the same numbers.
    """

    def __init__(self, config: ExtractorConfig, device: torch.device) -> None:
        """Build the network on `device` and load every one of its weights; see `build_network`.

        Raises:
            ValueError: as `build_network`.
        """
        network = build_network(config, device)
        from detectron2.data.transforms import ResizeShortestEdge

        self.labels, self.feature_dim = network.labels, network.feature_dim
        self._model, self._heads, self._is_c4 = network.model, network.model.roi_heads, network.is_c4
        # The Visual Genome network's res5 has four times the places.
        self._chunk = RES5_CHUNK // 4 if config.model == VG_PRESET else RES5_CHUNK
        preparation = network.cfg.INPUT
        self._resize = ResizeShortestEdge([preparation.MIN_SIZE_TEST] * 2, preparation.MAX_SIZE_TEST)
        self._is_bgr = preparation.FORMAT == "BGR"
        self._device = device
        self._config = config

    @torch.inference_mode()
    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """Regions of images of equal shape; see `Detector.detect`."""
        height, width = check_shapes(images)
        transform = self._resize.get_transform(images[0])
        inputs = []
        for image in images:
            channels = image[:, :, ::-1] if self._is_bgr else image
            resized = np.ascontiguousarray(transform.apply_image(channels).transpose(2, 0, 1))
            inputs.append({"image": torch.from_numpy(resized.astype(np.float32))})
        batch = self._model.preprocess_image(inputs)
        with autocast(self._device, self._config):
            maps = self._model.backbone(batch.tensor)
        maps = {name: one.float() for name, one in maps.items()}
        proposals, _ = self._model.proposal_generator(batch, maps, None)
        # Detectron2 rounds each axis of the resized image by itself.
        resized_height, resized_width = batch.image_sizes[0]
        scale = batch.tensor.new_tensor([width / resized_width, height / resized_height] * 2)
        return [
            self._regions({name: one[place : place + 1] for name, one in maps.items()}, found, scale, (width, height))
            for place, found in enumerate(proposals)
        ]

    def _regions(
        self, maps: dict[str, torch.Tensor], proposals: Any, scale: torch.Tensor, size: tuple[int, int]
    ) -> Detections:
        """Regions of one image, from its feature maps and its proposals (Detectron2 Instances).

        `scale` (4,) brings boxes from the resized image to the stored one of `size`.
        """
        vectors = self._pool(maps, proposals.proposal_boxes.tensor)
        predictor = self._heads.box_predictor
        predictions = predictor(vectors)
        (probabilities,) = predictor.predict_probs(predictions, [proposals])
        (boxes,) = predictor.predict_boxes(predictions, [proposals])
        found = Classified(
            probabilities=probabilities[:, :-1],
            background=probabilities[:, -1],
            proposals=proposals.proposal_boxes.tensor * scale,
            refined=boxes.reshape(len(boxes), boxes.shape[1] // 4, 4) * scale,
            vectors=vectors,
            size=size,
        )
        return keep_regions(found, self._config, lambda kept: self._pool(maps, kept / scale))

    def _pool(self, maps: dict[str, torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
        """What the classifier sees of each box (N, 4) of the resized image: (N, D)."""
        from detectron2.structures import Boxes

        heads = self._heads
        if not self._is_c4:
            pooled = heads.box_pooler([maps[name] for name in heads.box_in_features], [Boxes(boxes)])
            with autocast(self._device, self._config):
                vectors: torch.Tensor = heads.box_head(pooled)
            return vectors.float()
        inputs = [maps[name] for name in heads.in_features]
        chunks = [inputs[0].new_zeros((0, self.feature_dim))]
        for chunk in torch.split(boxes, self._chunk):
            pooled = heads.pooler(inputs, [Boxes(chunk)])
            with autocast(self._device, self._config):
                places = heads.res5(pooled)
            chunks.append(places.float().mean(dim=(2, 3)))
        return torch.cat(chunks)
