"""Detectron2's Faster R-CNN behind the `Detector` interface.

This module and `detectron2_network` alone import Detectron2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from feature_extraction.config import VG_PRESET, ExtractorConfig
from feature_extraction.detectors.detectron2_network import build_network
from feature_extraction.detectors.interface import (
    Classified,
    Detections,
    Image,
    Prepared,
    autocast,
    check_shapes,
    keep_regions,
)

RES5_CHUNK = 512
"""Most proposals that go through res5 at once: 1,000 of them would take 0.8 GB in fp32 before its first layer."""


class Detectron2Detector:
    """A Faster R-CNN with a C4 head (feature: mean of res5, 2048-d) or an FPN or DC5 one (1024-d).

    The network's own pieces run one after the other instead of its `inference`, which throws features away, decodes
    every class of every proposal and may return one proposal twice. Up to the proposals they are the same numbers.
    """

    def __init__(self, config: ExtractorConfig, device: torch.device) -> None:
        """Build the network on `device` and load all its weights; see `build_network`.

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
        self.device = device
        self._config = config

    def prepare(self, image: Image) -> Prepared:
        """The image resized as the network's config says, in its order of channels; see `Detector.prepare`."""
        height, width, _ = image.shape
        channels = image[:, :, ::-1] if self._is_bgr else image
        resized = self._resize.get_transform(image).apply_image(channels)
        return Prepared(np.ascontiguousarray(resized), (width, height))

    @torch.inference_mode()
    def detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
        """Regions of pictures of equal shape; see `Detector.detect`."""
        height, width = check_shapes(pictures)
        # Bytes go to the device, a quarter of the floats that they become there.
        pixels = [torch.tensor(picture.pixels, device=self.device).permute(2, 0, 1) for picture in pictures]
        batch = self._model.preprocess_image([{"image": one.contiguous()} for one in pixels])
        with autocast(self.device, self._config):
            maps = self._model.backbone(batch.tensor)
        maps = {name: one.float() for name, one in maps.items()}
        proposals, _ = self._model.proposal_generator(batch, maps, None)
        return [
            self._regions({name: one[place : place + 1] for name, one in maps.items()}, found, picture, (width, height))
            for place, (picture, found) in enumerate(zip(pictures, proposals, strict=True))
        ]

    def _regions(
        self, maps: dict[str, torch.Tensor], proposals: Any, picture: Prepared, resized: tuple[int, int]
    ) -> Detections:
        """Regions of one picture of (width, height) `resized`, from its maps and proposals (Detectron2 Instances)."""
        # Brings boxes to the stored image. Detectron2 rounds each axis of the resized one by itself.
        ratios = [stored / now for stored, now in zip(picture.size, resized, strict=True)]
        scale = torch.tensor(ratios * 2, device=self.device)
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
            size=picture.size,
        )
        return keep_regions(found, self._config, lambda kept: self._pool(maps, kept / scale))

    def _pool(self, maps: dict[str, torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
        """The classifier's input vectors (N, D) for boxes (N, 4) of the resized image."""
        from detectron2.structures import Boxes

        heads = self._heads
        if not self._is_c4:
            pooled = heads.box_pooler([maps[name] for name in heads.box_in_features], [Boxes(boxes)])
            with autocast(self.device, self._config):
                vectors: torch.Tensor = heads.box_head(pooled)
            return vectors.float()
        inputs = [maps[name] for name in heads.in_features]
        chunks = [inputs[0].new_zeros((0, self.feature_dim))]
        for chunk in torch.split(boxes, self._chunk):
            pooled = heads.pooler(inputs, [Boxes(chunk)])
            with autocast(self.device, self._config):
                places = heads.res5(pooled)
            chunks.append(places.float().mean(dim=(2, 3)))
        return torch.cat(chunks)
