"""Our results against a plain single-image path, written with Detectron2's own functions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see the extra 'detectron2'")
pytestmark = pytest.mark.detectron2

from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.data.transforms import ResizeShortestEdge  # noqa: E402
from detectron2.layers import nms  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.modeling.postprocessing import detector_postprocess  # noqa: E402
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image  # noqa: E402
from detectron2.structures import Boxes, Instances  # noqa: E402

from feature_extraction.config import ExtractorConfig  # noqa: E402
from feature_extraction.detectors.interface import detect_images  # noqa: E402
from feature_extraction.detectors.load import load_detector  # noqa: E402

PHOTOGRAPHS = Path(__file__).parents[5] / "shared/data/coco"


@dataclass
class PlainRegions:
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    features: np.ndarray


@torch.no_grad()
def plain_regions(config: ExtractorConfig, image: np.ndarray) -> PlainRegions:
    cfg = get_cfg()
    cfg.merge_from_file(config.model)
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = config.num_proposals
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(config.weights)
    height, width = image.shape[:2]
    resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST).get_transform(image)
    pixels = torch.from_numpy(resize.apply_image(image[:, :, ::-1]).astype("float32").transpose(2, 0, 1).copy())
    batch = model.preprocess_image([{"image": pixels}])
    maps = model.backbone(batch.tensor)
    (proposals,), _ = model.proposal_generator(batch, maps)
    heads = model.roi_heads

    def vectors_at(boxes: Boxes) -> torch.Tensor:
        if hasattr(heads, "res5"):
            return heads._shared_roi_transform([maps[name] for name in heads.in_features], [boxes]).mean(dim=[2, 3])
        return heads.box_head(heads.box_pooler([maps[name] for name in heads.box_in_features], [boxes]))

    vectors = vectors_at(proposals.proposal_boxes)
    predictions = heads.box_predictor(vectors)
    (probabilities,) = heads.box_predictor.predict_probs(predictions, [proposals])
    (boxes,) = heads.box_predictor.predict_boxes(predictions, [proposals])
    if config.box == "proposal":
        boxes = proposals.proposal_boxes.tensor
    select = {"argmax": argmax, "maxconf": maxconf, "classwise": fast_rcnn_inference_single_image}[config.selection]
    found, kept = select(
        boxes, probabilities, batch.image_sizes[0], config.min_score, config.nms_threshold, config.max_regions
    )
    features = vectors_at(found.pred_boxes) if config.feature_at == "final" else vectors[kept]
    found = detector_postprocess(found, height, width)
    return PlainRegions(
        found.pred_boxes.tensor.numpy(), found.pred_classes.numpy(), found.scores.numpy(), features.numpy()
    )


def argmax(boxes, probabilities, shape, _, threshold, limit):
    scores, labels = probabilities[:, :-1].max(dim=1)
    chosen = chosen_boxes(boxes, labels, shape)
    kept = nms(chosen.tensor, scores, threshold)[:limit]
    return Instances(shape, pred_boxes=chosen[kept], scores=scores[kept], pred_classes=labels[kept]), kept


def maxconf(boxes, probabilities, shape, _, threshold, limit):
    """bottom-up-attention's loop over the classes, with the class that gave the score."""
    best = torch.zeros(len(probabilities))
    labels = torch.zeros(len(probabilities), dtype=torch.long)
    for label in range(probabilities.shape[1] - 1):
        scores = probabilities[:, label]
        survivors = nms(chosen_boxes(boxes, torch.full_like(labels, label), shape).tensor, scores, threshold)
        better = survivors[scores[survivors] > best[survivors]]
        best[better], labels[better] = scores[better], label
    kept = best.sort(descending=True, stable=True).indices
    kept = kept[best[kept] > 0][:limit]
    chosen = chosen_boxes(boxes, labels, shape)
    return Instances(shape, pred_boxes=chosen[kept], scores=best[kept], pred_classes=labels[kept]), kept


def chosen_boxes(boxes: torch.Tensor, labels: torch.Tensor, shape: tuple[int, int]) -> Boxes:
    per_class = boxes.reshape(len(boxes), -1, 4)
    chosen = Boxes(per_class[torch.arange(len(boxes)), labels if per_class.shape[1] > 1 else 0])
    chosen.clip(shape)
    return chosen


def check_same(ours, plain: PlainRegions) -> None:
    assert len(ours.boxes) == len(plain.boxes) > 0
    np.testing.assert_allclose(ours.scores, plain.scores, atol=1e-5)
    np.testing.assert_array_equal(ours.labels, plain.labels)
    np.testing.assert_allclose(ours.boxes, plain.boxes, atol=1e-3)
    np.testing.assert_allclose(ours.features, plain.features, rtol=0, atol=1e-3)


@pytest.mark.parametrize("feature_at", ["proposal", "final"])
@pytest.mark.parametrize("selection", ["argmax", "maxconf", "classwise"])
def test_regions_equal_those_of_a_plain_path(network, images, selection, feature_at):
    config = network.config.model_copy(update={"selection": selection, "feature_at": feature_at, "nms_threshold": 0.3})
    check_same(detect_images(load_detector(config), images)[1], plain_regions(config, images[1]))


@pytest.mark.parametrize("selection", ["argmax", "maxconf", "classwise"])
def test_regions_at_the_proposals_equal_those_of_a_plain_path(network, images, selection):
    config = network.config.model_copy(update={"selection": selection, "box": "proposal"})
    check_same(detect_images(load_detector(config), images[:1])[0], plain_regions(config, images[0]))


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the shared COCO photographs are not on this machine")
@pytest.mark.parametrize("selection", ["argmax", "maxconf", "classwise"])
def test_photographs_give_what_a_plain_path_gives(network, selection):
    config = network.config.model_copy(update={"selection": selection})
    detector = load_detector(config)
    paths = sorted(PHOTOGRAPHS.rglob("*.jpg"))[:3]
    assert len(paths) == 3
    for path in paths:
        photograph = np.array(Pillow.open(path).convert("RGB"))
        check_same(detect_images(detector, [photograph])[0], plain_regions(config, photograph))
