"""State dicts of UNITER's program: read, checked and written back bit for bit."""

from pathlib import Path

import pytest
import torch

from feature_extraction.weight_files import read_weights
from model.errors import InputError
from model.families.uniter_names import official_model, to_official
from tests.golden.reference import Reference

FOLDER = Path(__file__).parents[3] / "golden" / "uniter"
WORDS = "uniter.embeddings.word_embeddings.weight"


def weights(name: str = "pretraining") -> dict[str, torch.Tensor]:
    return Reference.read(FOLDER / f"{name}.safetensors").under("w/")


def model_of(given: dict[str, torch.Tensor], **options):
    return official_model(given, "a.pt", sep_id=3, num_heads=4, **options)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.safetensors")))
def test_a_round_trip_is_exact_with_tied_weights_twice(name):
    given = weights(name)
    written = to_official(model_of(given))
    assert written.keys() == given.keys()
    assert all(torch.equal(written[key], value) for key, value in given.items())
    assert all(written[key].data_ptr() != written[WORDS].data_ptr() for key in written if key != WORDS)


def test_sizes_and_heads_are_those_of_the_weights():
    model = model_of(weights())
    config = model.config
    assert (model.vocab_size, model.feature_dim, model.num_labels, config.type_rows) == (120, 24, 10, 2)
    assert (config.hidden_size, config.num_layers, config.intermediate_size, config.max_positions) == (32, 2, 64, 40)
    assert {name: (head.kind, head.width) for name, head in model.heads.items()} == {
        "cls": ("words", 120),
        "itm": ("linear", 2),
        "region_classes": ("mlp", 11),
        "region_features": ("features", 24),
    }
    assert list(model_of(weights("retrieval")).heads) == ["itm", "matching"]
    assert model_of(weights("retrieval"), num_labels=7).num_labels == 7


def test_half_precision_old_terms_and_a_wrapper_are_read(tmp_path):
    given = weights()
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value.half()
        for key, value in given.items()
    }
    torch.save({"model_state": old, "step": 3}, tmp_path / "a.pt")
    written = to_official(model_of(read_weights(tmp_path / "a.pt")))
    assert all(torch.equal(written[key], value.half().float()) for key, value in given.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bert.pooler.dense.weight": torch.zeros(2)},
            r"1 weights of another model .* such as bert.pooler.dense.weight",
        ),
        ({"cls.predictions.decoder.weight": torch.zeros(120, 32)}, f"decoder.weight differs from {WORDS}"),
        (
            {"feat_regress.weight": torch.zeros(32, 24)},
            "feat_regress.weight differs from uniter.img_embeddings.img_lin",
        ),
        (
            {"uniter.extra.weight": torch.zeros(1)},
            "1 weights that UNITER has no place for, such as uniter.extra.weight",
        ),
        ({"itm_output.weight": torch.zeros(3, 32)}, r"itm_output.weight is \(3, 32\), but .* should be \(2, 32\)"),
        ({"uniter.pooler.dense.bias": None}, r"uniter.pooler.dense.bias is absent, but .* should be \(32,\)"),
        ({WORDS: None, "cls.predictions.decoder.weight": None}, f"a.pt lacks {WORDS}; name a whole checkpoint"),
        ({"uniter.pooler.dense.bias": torch.zeros(32, 1)}, r"pooler.dense.bias is \(32, 1\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given = {key: value for key, value in (weights() | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        model_of(given)


def test_another_models_weights_and_other_classes_are_refused():
    with pytest.raises(InputError, match=r"no weight of UNITER's, .* such as bert.embeddings.word_embeddings.weight"):
        model_of({"bert.embeddings.word_embeddings.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="tells 10 classes of regions apart, but these features have 8 labels"):
        model_of(weights(), num_labels=8)


def test_a_head_without_a_name_there_is_not_written(tiny):
    from model.families.configs import of_family
    from model.families.model import VisionLanguageModel

    model = VisionLanguageModel(13, 24, 8, 3, of_family(tiny, "uniter").model_dump(mode="json"))
    with pytest.raises(InputError, match="head 'region_labels' has no name in UNITER's program, which knows answers, "):
        to_official(model)
