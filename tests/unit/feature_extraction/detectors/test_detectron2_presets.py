"""The presets, full-sized and with random weights; above all, what the Visual Genome network differs in."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see the extra 'detectron2'")
pytestmark = pytest.mark.detectron2

from torchvision.ops import RoIPool, box_iou  # noqa: E402

from feature_extraction.config import RANDOM_WARNING, ExtractorConfig  # noqa: E402
from feature_extraction.detectors.detectron2_network import build_network, load_weights  # noqa: E402
from feature_extraction.detectors.interface import detect_images  # noqa: E402
from feature_extraction.detectors.load import load_detector  # noqa: E402

CPU = torch.device("cpu")
PHOTOGRAPHS = Path(__file__).parents[5] / "shared/data/coco"


@pytest.fixture(scope="module")
def vg(tmp_path_factory):
    """The Visual Genome network, untrained, with 1,600 made-up names."""
    names = tmp_path_factory.mktemp("vg") / "objects.txt"
    names.write_text("".join(f"thing {number},synonym\n" for number in range(1600)))
    return build_network(ExtractorConfig(model="vg-r101-c4", weights="random", vocabulary=str(names)), CPU)


@pytest.fixture(scope="module")
def stock():
    return build_network(ExtractorConfig(model="coco-r101-c4", weights="random"), CPU)


def test_its_stem_pools_without_padding_and_rounds_up(vg, stock):
    """With a convolution that picks every second pixel, the pooled values tell which pixels were looked at."""
    ramp = torch.arange(17)[:, None] * 100.0 + torch.arange(21)
    pooled = {}
    for name, network in (("vg", vg), ("stock", stock)):
        stem = network.model.backbone.stem
        kept = {key: value.clone() for key, value in stem.state_dict().items()}
        stem.conv1.weight.data.zero_()
        stem.conv1.weight.data[0, 0, 3, 3] = 1
        pooled[name] = stem(ramp.expand(1, 3, -1, -1))[0, 0].detach().round().int()
        stem.load_state_dict(kept)
    # The convolution gives 9x11: pixels 0, 2, .. 16 by 0, 2, .. 20. Windows of three begin at every second of them.
    assert pooled["vg"].tolist() == [[100 * y + x for x in (4, 8, 12, 16, 20)] for y in (4, 8, 12, 16)]
    assert pooled["stock"][0].tolist() == [202, 206, 210, 214, 218, 220]


def test_its_stem_rounds_up_where_windows_do_not_fit(vg):
    assert vg.model.backbone.stem(torch.zeros(1, 3, 16, 20)).shape[2:] == (4, 5)  # of 8x10: 2.5 + 1 and 3.5 + 1


def test_its_res5_keeps_fourteen_places_and_is_dilated(vg, stock):
    pooled = torch.zeros(1, 1024, 14, 14)
    assert vg.model.roi_heads.res5(pooled).shape == (1, 2048, 14, 14)
    assert stock.model.roi_heads.res5(pooled).shape == (1, 2048, 7, 7)
    for block in vg.model.roi_heads.res5:
        assert block.conv1.stride == block.conv2.stride == (1, 1)
        assert block.conv2.dilation == block.conv2.padding == (2, 2)
    assert vg.model.roi_heads.res5[0].shortcut.stride == (1, 1)


def test_its_res5_looks_two_places_away(vg):
    """One place of the input reaches those that three 3x3 convolutions of dilation 2 reach: 2, 4 and 6 away."""
    pooled = torch.zeros(2, 1024, 14, 14)
    pooled[1, :, 7, 7] = 1
    flat, peak = vg.model.roi_heads.res5(pooled)
    touched = ((flat - peak).abs() > 1e-6).any(dim=0)
    assert touched[7].nonzero().flatten().tolist() == [1, 3, 5, 7, 9, 11, 13]


def test_its_regions_are_max_pooled_and_its_rpn_is_512_wide(vg):
    (pool,) = vg.model.roi_heads.pooler.level_poolers
    assert isinstance(pool, RoIPool)
    head = vg.model.proposal_generator.rpn_head
    assert (head.conv.in_channels, head.conv.out_channels) == (1024, 512)
    assert (head.objectness_logits.in_channels, head.objectness_logits.out_channels) == (512, 12)


def test_its_classes_anchors_sizes_and_means_are_the_published_ones(vg):
    assert vg.labels[1599] == "thing 1599"
    assert vg.model.roi_heads.box_predictor.cls_score.out_features == 1601
    (cells,) = vg.model.proposal_generator.anchor_generator.cell_anchors
    areas = ((cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1])).sqrt().round().int()
    assert sorted(set(areas.tolist())) == [64, 128, 256, 512]
    assert (vg.cfg.INPUT.MIN_SIZE_TEST, vg.cfg.INPUT.MAX_SIZE_TEST, vg.cfg.INPUT.FORMAT) == (600, 1000, "BGR")
    assert vg.model.pixel_mean.flatten().tolist() == pytest.approx([102.9801, 115.9465, 122.7717])
    assert (vg.is_c4, vg.feature_dim) == (True, 2048)


def test_a_classifier_of_attributes_in_the_weights_is_passed_over_only_there(network, tmp_path):
    built = build_network(network.config, CPU)
    more = network.state | {"roi_heads.box_predictor.attributes.weight": torch.zeros(3)}
    torch.save({"model": more}, tmp_path / "weights.pth")
    load_weights(built.model, str(tmp_path / "weights.pth"), may_have_attributes=True)
    with pytest.raises(ValueError, match=r"attributes.weight: not in the model"):
        load_weights(built.model, str(tmp_path / "weights.pth"), may_have_attributes=False)
    torch.save({"model": more | {"backbone.more": torch.zeros(3)}}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"backbone.more: not in the model"):
        load_weights(built.model, str(tmp_path / "weights.pth"), may_have_attributes=True)


def test_random_weights_are_those_of_their_seed_and_say_so(network, images, caplog):
    def features(weights: str) -> np.ndarray:
        config = network.config.model_copy(update={"weights": weights})
        return detect_images(load_detector(config), images[:1])[0].features

    state = torch.random.get_rng_state()
    with caplog.at_level(logging.WARNING):
        one = features("random:3")
    assert RANDOM_WARNING in caplog.text
    np.testing.assert_array_equal(one, features("random:3"))
    assert not np.array_equal(one, features("random:4"))
    assert one.max() < 1000
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the shared COCO photographs are not on this machine")
@pytest.mark.parametrize(("model", "dim"), [("coco-r50-c4", 2048), ("coco-r101-fpn", 1024)])
def test_a_photograph_through_a_whole_preset(model, dim):
    photograph = np.array(Pillow.open(min(PHOTOGRAPHS.rglob("*.jpg"))).convert("RGB"))
    config = ExtractorConfig(
        model=model, weights="random", num_proposals=20, max_regions=10, class_scores="top:5", device="cpu"
    )
    detector = load_detector(config)
    (found,) = detect_images(detector, [photograph])
    assert detector.labels[:3] == ("person", "bicycle", "car")
    assert found.features.shape == (10, dim)
    assert np.isfinite(found.features).all()
    assert found.top_labels is not None
    assert found.top_scores is not None
    assert found.top_labels[:, 0].tolist() == found.labels.tolist()
    np.testing.assert_array_equal(found.top_scores[:, 0], found.scores)


def test_distributions_are_over_the_background_and_all_classes(network, images):
    (found,) = detect_images(load_detector(network.config.model_copy(update={"class_scores": "all"})), images[:1])
    assert found.class_scores is not None
    assert found.class_scores.shape == (len(found.boxes), 1 + len(load_detector(network.config).labels))
    np.testing.assert_allclose(found.class_scores.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.class_scores[:, 0], found.background)
    np.testing.assert_allclose(found.class_scores[:, 1:].max(1), found.scores, atol=1e-5)


def test_bf16_finds_what_fp32_finds_and_decodes_boxes_exactly(network, images):
    """An untrained FPN's proposals are nearly ties, so other ones win in bf16; those of the C4 network are decided."""
    share, least_cosine = {256: (0.9, 0.999), 1024: (0.5, 0.99)}[network.feature_dim]
    (exact,) = detect_images(load_detector(network.config), images[:1])
    (half,) = detect_images(load_detector(network.config.model_copy(update={"precision": "bf16"})), images[:1])
    overlaps = box_iou(torch.from_numpy(exact.boxes), torch.from_numpy(half.boxes)).numpy()
    matched, nearest = overlaps.max(axis=1) > 0.9, overlaps.argmax(axis=1)
    assert matched.mean() >= share
    assert (exact.labels[matched] == half.labels[nearest[matched]]).mean() >= 0.98
    one, other = exact.features[matched], half.features[nearest[matched]]
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() >= least_cosine
    assert not np.array_equal(exact.features, half.features)
    # A corner that had been rounded to the 8 bits of bf16 would be a whole pixel from 128 on.
    corners = half.boxes[(half.boxes > 128) & (half.boxes < 200)]
    assert (corners % 1 != 0).mean() > 0.5
