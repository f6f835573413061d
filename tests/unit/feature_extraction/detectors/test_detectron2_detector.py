"""Detectron2's networks behind the interface: real ones with random weights and few channels (see conftest)."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see the extra 'detectron2'")
pytestmark = pytest.mark.detectron2

from detectron2.config import get_cfg  # noqa: E402
from detectron2.engine import DefaultPredictor  # noqa: E402

from feature_extraction.config import ExtractorConfig  # noqa: E402
from feature_extraction.detectors.interface import detect_images  # noqa: E402
from feature_extraction.detectors.load import load_detector  # noqa: E402

CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"


def test_regions_are_what_the_interface_promises(network, images):
    detector = load_detector(network.config)
    dim = network.feature_dim
    assert detector.feature_dim == dim
    assert detector.labels[6] == "label 6"
    for found in detect_images(detector, images):
        assert found.features.shape == (12, dim)
        assert (found.features >= 0).all()
        assert (np.diff(found.scores) <= 0).all()
        assert found.boxes[:, 2].max() <= 200
        assert found.boxes[:, 3].max() <= 120


def test_a_batch_gives_what_single_images_give(network, images):
    detector = load_detector(network.config)
    for one, image in zip(detect_images(detector, images), images, strict=True):
        (alone,) = detect_images(detector, [image])
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(one.features, alone.features, rtol=0, atol=1e-4 * alone.features.max())


def test_every_region_is_one_of_detectron2_s_own(network, images):
    """Its own inference with all thresholds open lists each class of each proposal; it wants blue first."""
    config = network.config
    (found,) = detect_images(load_detector(config), images[:1])
    own = DefaultPredictor(_open_config(config))(images[0][:, :, ::-1])["instances"]
    boxes, scores, labels = own.pred_boxes.tensor.numpy(), own.scores.numpy(), own.pred_classes.numpy()
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        near = np.abs(boxes - box).max(axis=1) < 1e-2
        assert (near & (np.abs(scores - score) < 1e-4) & (labels == label)).any()


def _open_config(config: ExtractorConfig):
    cfg = get_cfg()
    cfg.merge_from_file(config.model)
    cfg.MODEL.WEIGHTS = config.weights
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = config.num_proposals
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0
    cfg.TEST.DETECTIONS_PER_IMAGE = config.num_proposals * cfg.MODEL.ROI_HEADS.NUM_CLASSES
    return cfg


def test_the_feature_is_the_vector_that_the_classifier_saw(network, images):
    config, state = network.config, network.state
    (found,) = detect_images(load_detector(config), images[:1])
    bias = state[CLASSIFIER.replace("weight", "bias")]
    probabilities = (torch.from_numpy(found.features) @ state[CLASSIFIER].T + bias).softmax(1).numpy()
    np.testing.assert_allclose(probabilities[:, -1], found.background, atol=1e-4)
    np.testing.assert_allclose(probabilities[:, :-1].max(axis=1), found.scores, atol=1e-4)


def test_model_zoo_pickles_load_as_pth_does(network, images, tmp_path):
    config, state = network.config, network.state
    weights = {name: tensor.numpy() for name, tensor in state.items()}
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps({"model": weights, "__author__": "test"}))
    (one,) = detect_images(load_detector(config), images[:1])
    (other,) = detect_images(
        load_detector(config.model_copy(update={"weights": str(tmp_path / "weights.pkl")})), images[:1]
    )
    np.testing.assert_array_equal(one.features, other.features)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("missing", "absent in the file"),
        ("other classes", r"keys that differ: 1, first .*cls_score\.weight: \(6, \d+\) in the file, \(8, \d+\)"),
        ("unexpected", "attributes: not in the model"),
        ("damaged", "cannot be loaded"),
        ("absent", "cannot be loaded"),
    ],
)
def test_weights_that_would_leave_a_part_random_are_refused(network, tmp_path, how, problem):
    config, state = network.config, network.state
    path = tmp_path / "weights.pth"
    if how == "damaged":
        path.write_bytes(b"123")
    elif how != "absent":
        changed = {name: tensor for name, tensor in state.items() if how != "missing" or name != CLASSIFIER}
        if how == "other classes":
            changed[CLASSIFIER] = state[CLASSIFIER][:-2]
        if how == "unexpected":
            changed["attributes"] = torch.zeros(1)
        torch.save({"model": changed}, path)
    with pytest.raises(ValueError, match=problem):
        load_detector(config.model_copy(update={"weights": str(path)}))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"model": "nowhere.yaml"}, "no preset .*, no file, and no YAML config of Detectron2's model zoo"),
        ({"model": "COCO-Detection/retinanet_R_50_FPN_1x.yaml"}, "give a Faster R-CNN"),
        ({"model": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"}, "give a Faster R-CNN"),
        ({"weights": None}, "extractor.weights is not set"),
        ({"vocabulary": None}, "names 80 labels, but the detector has 7"),
    ],
)
def test_what_does_not_fit_is_refused(network, fields, problem):
    with pytest.raises(ValueError, match=problem):
        load_detector(network.config.model_copy(update=fields))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no config file of Detectron2"),
        ("just words", "is no config file of Detectron2"),
        ("}{", "is no config file of Detectron2"),
        ("MODEL:\n  NOPE: 3\n", "Non-existent config key: MODEL.NOPE"),
        ("_BASE_: nowhere.yaml\n", "nowhere.yaml"),
        ("_BASE_: config.yaml\n", "is no config file of Detectron2"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_one_sentence(network, tmp_path, text, problem):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem) as error:
        load_detector(network.config.model_copy(update={"model": str(path)}))
    assert "\n" not in str(error.value)


def test_a_config_of_the_zoo_that_is_a_program_is_refused(network):
    with pytest.raises(ValueError, match="no YAML config of Detectron2's model zoo"):
        load_detector(network.config.model_copy(update={"model": "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"}))


class Program:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pth"])
def test_weights_that_would_run_a_program_are_refused_unless_they_are_trusted(network, tmp_path, name):
    config = network.config.model_copy(update={"weights": str(tmp_path / name)})
    content = {"model": network.state, "more": Program(tmp_path / "it ran")}
    if name.endswith(".pth"):
        torch.save(content, config.weights)
    else:
        content["model"] = {key: tensor.numpy() for key, tensor in network.state.items()}
        Path(config.weights).write_bytes(pickle.dumps({**content, "__author__": "test"}))
    with pytest.raises(ValueError, match=rf"{name} are more than numbers: .*mkdir.* set extractor\.trust_weights=true"):
        load_detector(config)
    assert not (tmp_path / "it ran").exists()
    load_detector(config.model_copy(update={"trust_weights": True}))
    assert (tmp_path / "it ran").exists()
