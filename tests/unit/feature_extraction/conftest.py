"""Detectron2's networks, real ones with random weights and few channels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from feature_extraction.config import ExtractorConfig

NUM_CLASSES, NUM_PROPOSALS = 7, 40
WIDTHS = {"faster_rcnn_R_50_C4_1x": 256, "faster_rcnn_R_50_FPN_1x": 1024}


@dataclass(frozen=True)
class SlimNetwork:
    """A slim network on disk: its extractor config, its state dict and D."""

    config: ExtractorConfig
    state: dict[str, torch.Tensor]
    feature_dim: int


@pytest.fixture(scope="session", params=WIDTHS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SlimNetwork:
    """A C4 or FPN network of 7 classes, whose activations stay small and whose classifier is decided."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: see the extra 'detectron2'")
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp(request.param)
    cfg = model_zoo.get_config(f"COCO-Detection/{request.param}.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 32
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.INPUT.MIN_SIZE_TEST = 160
    (folder / "model.yaml").write_text(cfg.dump())
    (folder / "labels.txt").write_text("".join(f"label {n}\n" for n in range(NUM_CLASSES)))
    torch.manual_seed(0)
    state = build_model(cfg).state_dict()
    for name, tensor in state.items():
        if name.endswith("conv3.norm.weight"):
            tensor.fill_(0.2)
        if "box_predictor" in name:
            tensor.mul_(8)
    torch.save({"model": state}, folder / "weights.pth")
    config = ExtractorConfig(
        backend="detectron2",
        model=str(folder / "model.yaml"),
        weights=str(folder / "weights.pth"),
        vocabulary=str(folder / "labels.txt"),
        num_proposals=NUM_PROPOSALS,
        max_regions=12,
        device="cpu",
    )
    return SlimNetwork(config, state, WIDTHS[request.param])


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    """Two pictures of noise, 200 wide and 120 high."""
    return list(np.random.default_rng(0).integers(0, 255, (2, 120, 200, 3), dtype=np.uint8))
