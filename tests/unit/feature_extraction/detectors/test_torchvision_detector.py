from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tasks.world
from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import detect_images
from feature_extraction.detectors.load import load_detector
from feature_extraction.detectors.torchvision_detector import (
    FEATURE_DIM,
    build_small_detector,
    load_small_detector,
    save_small_weights,
)
from tasks.world.scenes import LABELS, render_scene
from tasks.world.train_detector import measure_detector

SHIPPED = Path(tasks.world.__file__).with_name("detector.safetensors")
VOCABULARY = SHIPPED.with_name("vocabulary.txt")


def config(weights: Path = SHIPPED, **fields) -> ExtractorConfig:
    return ExtractorConfig(
        backend="torchvision", model="small", weights=str(weights), device="cpu", max_regions=12, **fields
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More threads than idle cores make small tensors very slow."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def detector():
    return load_detector(config())


def scene_pixels(seed: int) -> np.ndarray:
    return np.array(render_scene(np.random.default_rng(seed), 3, 5).image)


def test_the_small_detector_has_the_size_it_is_said_to_have():
    assert sum(parameter.numel() for parameter in build_small_detector(64).parameters()) == 628_305


def test_the_shipped_detector_finds_the_labels_of_fresh_scenes():
    assert measure_detector(SHIPPED, scenes=20, seed=12345).labelled >= 0.85


def test_the_shipped_files_are_small_and_agree_with_the_scenes(detector):
    assert SHIPPED.stat().st_size <= 3_000_000
    assert detector.labels == LABELS
    assert load_detector(config(vocabulary=str(VOCABULARY))).labels == LABELS


def test_regions_of_a_scene_are_what_the_interface_promises(detector):
    image = scene_pixels(3)
    (found,) = detect_images(detector, [image])
    count = len(found.boxes)
    assert 3 <= count <= 12
    assert found.features.shape == (count, FEATURE_DIM)
    assert found.features.dtype == found.boxes.dtype == found.scores.dtype == np.float32
    assert (found.features >= 0).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes[:, 0] < found.boxes[:, 2]).all()
    assert found.boxes.min() >= 0
    assert found.boxes.max() <= 128
    assert (found.scores + found.background <= 1 + 1e-5).all()


def test_weights_that_are_a_pointer_or_no_finite_numbers_are_named(tmp_path):
    path = tmp_path / "detector.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1264500\n")
    with pytest.raises(ValueError, match=r"detector\.safetensors cannot be loaded: the file is a Git LFS pointer"):
        load_small_detector(path)
    state = load_file(SHIPPED)
    state["roi_heads.box_head.fc6.bias"][3] = float("inf")
    save_file(state, path, {"labels": "\n".join(LABELS)})
    with pytest.raises(ValueError, match=r"loaded: the file has 1 of 128 values of roi_heads\.box_head\.fc6\.bias"):
        load_small_detector(path)


def test_a_batch_gives_what_single_images_give(detector):
    images = [scene_pixels(seed) for seed in range(4)]
    for one, image in zip(detect_images(detector, images), images, strict=True):
        (alone,) = detect_images(detector, [image])
        assert one.labels.tolist() == alone.labels.tolist()
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(one.features, alone.features, atol=1e-4)


def test_the_feature_is_the_vector_that_the_classifier_saw(detector):
    image = scene_pixels(5)
    (found,) = detect_images(detector, [image])
    predictor = load_small_detector(SHIPPED)[0].roi_heads.box_predictor
    probabilities = predictor.cls_score(torch.from_numpy(found.features)).softmax(1).detach().numpy()
    np.testing.assert_allclose(probabilities[:, 0], found.background, atol=1e-4)
    np.testing.assert_allclose(probabilities[:, 1:].max(1), found.scores, atol=1e-4)


def test_boxes_are_in_pixels_of_the_image_that_was_given(detector):
    image = scene_pixels(6)
    (small,) = detect_images(detector, [image])
    (large,) = detect_images(detector, [np.kron(image, np.ones((2, 2, 1), np.uint8))])
    best = small.boxes[0] * 2
    assert np.abs(large.boxes - best).max(axis=1).min() < 6  # the same object, twice as large
    assert large.boxes.max() > 128


def test_images_of_one_call_must_have_one_shape(detector):
    with pytest.raises(ValueError, match="one shape"):
        detect_images(detector, [np.zeros((64, 64, 3), np.uint8), np.zeros((64, 65, 3), np.uint8)])
    with pytest.raises(ValueError, match="bytes"):
        detect_images(detector, [np.zeros((64, 64), np.uint8)])


def test_saved_weights_come_back_as_single_precision(tmp_path):
    torch.manual_seed(0)
    model = build_small_detector(2)
    save_small_weights(model, tmp_path / "w.safetensors", ["cat", "dog"], {"steps": "0"})
    loaded, labels = load_small_detector(tmp_path / "w.safetensors")
    assert labels == ("cat", "dog")
    assert not loaded.training
    for (name, wanted), found in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert found.dtype == torch.float32, name
        torch.testing.assert_close(found, wanted.half().float(), rtol=0, atol=0)


def spoil(tensors: dict, how: str) -> dict:
    name = "roi_heads.box_predictor.cls_score.weight"
    if how == "missing":
        return {key: tensor for key, tensor in tensors.items() if key != name}
    if how == "unexpected":
        return tensors | {"roi_heads.attributes": torch.zeros(1)}
    return tensors | {name: tensors[name][:-1].clone()}


@pytest.mark.parametrize("how", ["missing", "unexpected", "mis-shaped"])
def test_weights_that_fit_only_partly_are_refused(tmp_path, how):
    path = tmp_path / "weights.safetensors"
    save_file(spoil(load_file(SHIPPED), how), path, metadata={"labels": "\n".join(LABELS)})
    with pytest.raises(
        ValueError, match=r"do not fit the small detector with 64 labels: keys that differ: 1, first roi_heads"
    ):
        load_small_detector(path)


def test_files_that_are_no_weights_of_ours_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ValueError, match="cannot be read"):
        load_small_detector(path)
    path.write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="begins with zeros alone"):
        load_small_detector(path)
    save_file(load_file(SHIPPED), path)
    with pytest.raises(ValueError, match="name no labels"):
        load_small_detector(path)


def test_a_vocabulary_of_another_length_is_refused(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"label {n}\n" for n in range(63)))
    with pytest.raises(ValueError, match="names 63 labels, but the detector has 64 foreground classes"):
        load_detector(config(vocabulary=str(path)))


@pytest.mark.parametrize("count", [1, 7])
def test_num_proposals_limits_what_is_classified(count):
    (found,) = detect_images(load_detector(config(num_proposals=count, nms_threshold=1.0)), [scene_pixels(7)])
    assert 1 <= len(found.boxes) <= count
