"""The seam of families: one whose words depend on the picture is scored exactly, each side embedded once."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from model.data.batch import pad_words
from model.data.captions import load_captions
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.downstream.retrieval.blocks import score_split
from model.downstream.retrieval.config import ScoringConfig
from model.errors import InputError
from model.families import model as models
from model.families.build import build_model
from model.families.family import Side
from model.families.unicoder_vl import UnicoderVLEncoder


@dataclass(frozen=True)
class Pictures(Side):
    whole: torch.Tensor


class EveryWordCarriesThePicture(UnicoderVLEncoder):
    """As VL-BERT's: a vector of the whole picture is added to each word, so that no caption's states stand alone."""

    def embed_regions(self, regions, features, masked=None):
        side = super().embed_regions(regions, features, masked)
        present = side.mask.unsqueeze(-1)
        return Pictures(side.states, side.mask, (side.states * present).sum(1) / present.sum(1).clamp(min=1))

    def join(self, texts, images):
        words = self.embeddings.LayerNorm(texts.states + images.whole.unsqueeze(1))
        return torch.cat([words, images.states, texts.closing], dim=1)


@pytest.fixture
def model_and_data(make_world, tiny, monkeypatch):
    monkeypatch.setitem(models._FAMILIES, "unicoder-vl", EveryWordCarriesThePicture)
    labels = [[0, 1], [2, 3, 4], [5], [6, 7, 0, 1]]
    texts = ["red cat", "blue dog bird", "green", "red", "car tree red blue", "dog cat bird"]
    source, path = make_world(labels, [(number % 4, text) for number, text in enumerate(texts)])
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, tiny.max_text_tokens)
    return build_model(tiny, store, vocabulary, seed=2).eval(), store, captions, tokens


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_words_that_depend_on_the_picture_are_scored_exactly(model_and_data, batch_size):
    model, store, captions, tokens = model_and_data
    scores = score_split(
        model, store, captions, tokens, ScoringConfig(batch_size=batch_size, device="cpu"), torch.device("cpu")
    )
    with torch.no_grad():
        for row, image in enumerate(captions.images.tolist()):
            for column in range(len(tokens)):
                alone = model.score(pad_words([tokens[column]], 0), store.read([image], 4))
                np.testing.assert_allclose(scores[row, column], alone.item(), atol=1e-5)
    assert np.ptp(scores) > 1e-4


def test_a_checkpoint_lists_its_heads_and_one_that_is_asked_for_in_vain_is_named(model_and_data, tmp_path):
    from model.families.config import HeadConfig
    from model.families.model import VisionLanguageModel

    model = model_and_data[0].with_heads({"answers": HeadConfig(kind="linear", width=3)}, seed=1)
    model.save_pretrained(tmp_path)
    loaded = VisionLanguageModel.from_pretrained(tmp_path, local_files_only=True, strict=True)
    assert loaded.heads == model.heads
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    with pytest.raises(InputError, match="no head 'matching', only answers"):
        loaded.match(torch.zeros(1, model.config.hidden_size))
    with pytest.raises(InputError, match="is linear of width 3 in this checkpoint but linear of width 4"):
        loaded.with_heads({"answers": HeadConfig(kind="linear", width=4)}, seed=1)
