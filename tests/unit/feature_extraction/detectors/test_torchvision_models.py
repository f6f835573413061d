"""torchvision's own networks by name, with random weights: none are downloaded here."""

import logging
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import WeightsEnum, get_model, get_model_weights

from feature_extraction.config import RANDOM_WARNING, TORCHVISION_MODELS, ExtractorConfig
from feature_extraction.detectors.interface import detect_images
from feature_extraction.detectors.load import load_detector

pytestmark = pytest.mark.slow("torchvision's whole networks")

LIGHT = "fasterrcnn_mobilenet_v3_large_fpn"
CLASSIFIER = "roi_heads.box_predictor.cls_score"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def config(**fields) -> ExtractorConfig:
    defaults = {"model": LIGHT, "weights": "random", "device": "cpu", "max_regions": 10, "num_proposals": 20}
    return ExtractorConfig(backend="torchvision", **(defaults | fields))


def state_of(model: str, num_outputs: int = 91) -> dict[str, torch.Tensor]:
    """Random weights that tell regions apart: the batch norms have seen noise, the classifier is sharp."""
    torch.manual_seed(1)
    network = get_model(model, weights=None, weights_backbone=None, num_classes=num_outputs)
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.weight.data.fill_(0.2 if name.endswith("bn3") else 1)  # ResNet's residuals add up
    # So faint a first convolution makes the epsilon of the batch norm behind it count.
    next(network.backbone.parameters()).data.mul_(0.01)
    with torch.no_grad():
        network.backbone.train()(torch.randn(2, 3, 160, 160))
    network.roi_heads.box_predictor.cls_score.weight.data.mul_(30)
    return network.state_dict()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


@pytest.mark.parametrize("model", TORCHVISION_MODELS)
def test_labels_are_coco_s_eighty_names_without_the_gaps(model):
    labels = load_detector(config(model=model)).labels
    assert len(labels) == 80
    assert labels[:3] == ("person", "bicycle", "car")
    assert labels[-1] == "toothbrush"
    assert "N/A" not in labels


def test_regions_are_what_the_interface_promises(picture, caplog):
    with caplog.at_level(logging.WARNING):
        detector = load_detector(config(class_scores="top:3"))
    assert RANDOM_WARNING in caplog.text
    for found in detect_images(detector, [picture, picture]):
        assert found.features.shape == (len(found.boxes), detector.feature_dim) == (10, 1024)
        assert (found.features >= 0).all()
        assert (np.diff(found.scores) <= 0).all()
        assert found.boxes.max() <= 120
        assert found.top_labels is not None
        assert found.top_labels.shape == (10, 3)
        assert found.top_labels[:, 0].tolist() == found.labels.tolist()


def test_a_gap_never_becomes_a_label(picture, tmp_path):
    """Output 12 stands for no class: however sure of it the network is, labels are those of its next best outputs."""
    state = state_of(LIGHT)
    state[f"{CLASSIFIER}.bias"][12] += 1000
    state[f"{CLASSIFIER}.bias"][13] += 900  # the stop sign, class 11 of 80
    torch.save(state, tmp_path / "weights.pth")
    detector = load_detector(config(weights=str(tmp_path / "weights.pth"), class_scores="all"))
    (found,) = detect_images(detector, [picture])
    assert {detector.labels[label] for label in found.labels} == {"stop sign"}
    assert found.scores.max() < 0.01
    # What the gap has goes to the foreground, in the shares of its classes.
    assert found.class_scores is not None
    np.testing.assert_allclose(found.class_scores[:, 1 + 11], 1 - found.background, atol=1e-4)


def test_distributions_are_over_the_background_and_all_classes(picture):
    (found,) = detect_images(load_detector(config(class_scores="all")), [picture])
    assert found.class_scores is not None
    assert found.class_scores.shape == (10, 81)
    np.testing.assert_allclose(found.class_scores.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.class_scores[:, 0], found.background)
    assert found.class_scores[:, 1:].argmax(1).tolist() == found.labels.tolist()
    assert found.top_labels is None


@pytest.mark.parametrize("model", [LIGHT, "fasterrcnn_resnet50_fpn"])
def test_weights_without_a_path_are_torchvision_s_own_and_give_its_numbers(model, picture, tmp_path, monkeypatch):
    """torchvision builds its trained networks with other batch norms than its untrained ones."""
    # Files of trained networks hold frozen batch norms, which count no batches.
    state = {name: value for name, value in state_of(model).items() if not name.endswith("num_batches_tracked")}
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: {**state})
    own = get_model(
        model,
        weights=get_model_weights(model).DEFAULT,
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_test=20,
        box_score_thresh=0.0,
        box_nms_thresh=0.5,
        box_detections_per_img=10,
    ).eval()
    with torch.inference_mode():
        (expected,) = own([torch.from_numpy(picture).permute(2, 0, 1) / 255])
    labels = get_model_weights(model).DEFAULT.meta["categories"]
    assert not any(labels[label] == "N/A" for label in expected["labels"]), "choose another seed"

    detector = load_detector(config(model=model, weights=None, selection="classwise"))
    (found,) = detect_images(detector, [picture])
    assert [detector.labels[label] for label in found.labels] == [labels[label] for label in expected["labels"]]
    np.testing.assert_allclose(found.scores, expected["scores"].numpy(), atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected["boxes"].numpy(), atol=1e-3)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_other_classes_take_their_names_from_a_vocabulary(picture, tmp_path, suffix):
    path, names = tmp_path / f"weights.{suffix}", tmp_path / "names.txt"
    state = {name: value.contiguous() for name, value in state_of(LIGHT, num_outputs=4).items()}
    if suffix == "pth":
        torch.save({"model": state, "epoch": 3}, path)
    else:
        save_file(state, path)
    with pytest.raises(ValueError, match=r"3 foreground classes, not COCO's; set extractor.vocabulary"):
        load_detector(config(weights=str(path)))
    names.write_text("cat\ndog\nbird\n")
    detector = load_detector(config(weights=str(path), vocabulary=str(names)))
    assert detector.labels == ("cat", "dog", "bird")
    assert len(detect_images(detector, [picture])[0].boxes) > 0
    names.write_text("cat\ndog\n")
    with pytest.raises(ValueError, match="names 2 labels, but the detector has 3 foreground classes"):
        load_detector(config(weights=str(path), vocabulary=str(names)))


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("absent", "cannot be loaded"),
        ("damaged", "cannot be loaded"),
        ("pointer", r"weights\.pth cannot be loaded: the file is a Git LFS pointer"),
        (
            "not finite",
            r"weights\.pth cannot be loaded: the file has 1 of 1024 values of roi_heads\.box_head\.fc7\.bias ",
        ),
        ("not a state dict", "the file holds a list, not weights by their names"),
        ("no detector", "hold no roi_heads.box_predictor.cls_score.weight"),
        ("missing", "do not fit fasterrcnn_mobilenet_v3_large_fpn: keys that differ: 1, first rpn.head.bbox_pred.bias"),
        ("another model", "do not fit fasterrcnn_mobilenet_v3_large_fpn"),
    ],
)
def test_weights_that_would_leave_a_part_random_are_refused(tmp_path, how, problem):
    path = tmp_path / "weights.pth"
    if how == "damaged":
        path.write_bytes(b"123")
    elif how == "pointer":
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 77844807\n")
    elif how == "not a state dict":
        torch.save([1, 2], path)
    elif how == "no detector":
        torch.save({"state_dict": {"fc.weight": torch.ones(2)}}, path)
    elif how != "absent":
        state = state_of("fasterrcnn_resnet50_fpn" if how == "another model" else LIGHT)
        if how == "missing":
            del state["rpn.head.bbox_pred.bias"]
        if how == "not finite":
            state["roi_heads.box_head.fc7.bias"][5] = float("nan")
        torch.save(state, path)
    with pytest.raises(ValueError, match=problem):
        load_detector(config(weights=str(path)))


@pytest.mark.parametrize("selection", ["argmax", "maxconf", "classwise"])
def test_the_final_feature_is_pooled_at_the_stored_box(picture, tmp_path, selection):
    torch.save(state_of(LIGHT), tmp_path / "weights.pth")

    def detect(**fields):
        given = config(weights=str(tmp_path / "weights.pth"), selection=selection, **fields)
        return detect_images(load_detector(given), [picture, picture[::-1]])[1]

    at_proposal = detect(box="proposal")
    again = detect(box="proposal", feature_at="final")
    np.testing.assert_array_equal(at_proposal.boxes, again.boxes)
    np.testing.assert_allclose(again.features, at_proposal.features, atol=1e-3)  # the stored box is the proposal

    refined, final = detect(), detect(feature_at="final")
    np.testing.assert_array_equal(refined.boxes, final.boxes)
    np.testing.assert_array_equal(refined.scores, final.scores)
    assert np.abs(final.features - refined.features).max() > 0.01


def test_weights_as_a_training_program_wrapped_them_are_found(picture, tmp_path):
    state = state_of(LIGHT)
    torch.save(state, tmp_path / "plain.pth")
    wrapped = {"state_dict": {f"module.detector.{name}": value for name, value in state.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    plain, found = (
        detect_images(load_detector(config(weights=str(tmp_path / name))), [picture])[0]
        for name in ("plain.pth", "wrapped.pth")
    )
    np.testing.assert_array_equal(plain.features, found.features)


class Program:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_weights_that_would_run_a_program_are_refused_unless_they_are_trusted(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": state_of(LIGHT), "more": Program(tmp_path / "it ran")}, path)
    with pytest.raises(ValueError, match=r"are more than numbers: .*mkdir.* set extractor\.trust_weights=true"):
        load_detector(config(weights=str(path)))
    assert not (tmp_path / "it ran").exists()
    load_detector(config(weights=str(path), trust_weights=True))
    assert (tmp_path / "it ran").exists()
