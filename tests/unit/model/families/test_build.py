import numpy as np
import pytest
import torch

from model.data.store import open_store
from model.data.tokenizer import load_vocabulary
from model.errors import InputError
from model.families.build import build_model
from model.families.embeddings import dequantise
from tests.toy import make_sample, write_feature_set


def built(make_world, tiny, tmp_path, monkeypatch, regions: list[int]):
    """A model that standardises, over two images at a time, and the mean of the features that images 2 and 3 have."""
    monkeypatch.setattr("model.families.build._STANDARDISE_IMAGES", 2)
    source, vocabulary = make_world([[0]] * len(regions), [(0, "red")])
    samples = [make_sample(f"{number:09d}", list(range(count)), 24, number) for number, count in enumerate(regions)]
    write_feature_set(tmp_path / "features", samples, 3, 5, 24)
    store = open_store(source)
    encoder = tiny.model_copy(update={"feature_norm": "standard"})
    model = build_model(encoder, store, load_vocabulary(vocabulary), seed=0)
    few = store.read(np.arange(2, 4), 4)
    return model, dequantise(few)[few.mask].mean(0)


def test_features_are_measured_on_the_first_images_that_have_regions(make_world, tiny, tmp_path, monkeypatch):
    model, mean = built(make_world, tiny, tmp_path, monkeypatch, [0, 0, 3, 2, 4])
    norm = model.bert.region_embeddings.feature_norm
    torch.testing.assert_close(norm.mean, mean)
    assert (norm.spread > 0).all()


def test_one_region_alone_has_a_mean_and_spread_one(make_world, tiny, tmp_path, monkeypatch):
    model, mean = built(make_world, tiny, tmp_path, monkeypatch, [0, 0, 0, 1])
    norm = model.bert.region_embeddings.feature_norm
    torch.testing.assert_close(norm.mean, mean)
    assert (norm.spread == 1).all()


def test_features_without_any_region_are_refused_before_training(make_world, tiny, tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"features: none of 5 images has a region, so encoder\.feature_norm='standard'"
    ):
        built(make_world, tiny, tmp_path, monkeypatch, [0] * 5)
