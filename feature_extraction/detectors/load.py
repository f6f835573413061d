"""Load the detector that a config names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import Detector, lacks_bf16, logger, pick_device

if TYPE_CHECKING:
    pass


def load_detector(config: ExtractorConfig) -> Detector:
    """Load the detector that the config names onto its device.

    Raises:
        ValueError: model, weights or vocabulary are missing or do not fit each other, there is no such device, or
            the backend's package is not installed.
    """
    device = pick_device(config.device)
    if config.precision == "bf16" and lacks_bf16(device):
        logger.warning("extractor.precision='bf16', but this CPU has no instructions for it: fp32 is many times faster")
    if config.backend == "torchvision":
        from feature_extraction.detectors.torchvision_detector import TorchvisionDetector

        return TorchvisionDetector(config, device)
    from feature_extraction.detectors.detectron2_detector import Detectron2Detector

    return Detectron2Detector(config, device)
