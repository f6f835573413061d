"""Weights of VL-BERT's program: read by its names, written back to the last bit; and its arrays against ours."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from feature_extraction.weight_files import read_weights
from model.errors import InputError
from model.families.heads import MATCHING
from model.families.vl_bert_names import official_model, to_official
from tests.golden import __main__ as golden

FOLDER = Path(__file__).parents[3] / "golden" / "vlbert"


@pytest.fixture
def weights():
    arrays = load_file(FOLDER / "pretraining.safetensors")
    return {name.removeprefix("w/"): value for name, value in arrays.items() if name.startswith("w/")}


def read(weights, **sizes):
    return official_model(weights, "vl-bert.model", 3, num_heads=4, **sizes)


@pytest.mark.parametrize("name", ["pretraining", "geometry"])
def test_outputs_and_gradients_are_those_of_the_program(name):
    verdicts = dict(golden.check_file(FOLDER / f"{name}.safetensors"))
    assert {group: verdict.text for group, verdict in verdicts.items()} == dict.fromkeys(verdicts, "ok")
    assert sum(verdict.compared for verdict in verdicts.values()) >= (150 if name == "pretraining" else 1)


def test_adamw_steps_as_the_program_does_and_sgd_is_not_tried():
    verdicts = dict(golden.check_file(FOLDER / "optimiser.safetensors"))
    assert verdicts["out/adamw"].text == "ok" and verdicts["out/adamw"].compared == 2
    assert verdicts["out/sgd"].text.startswith("not tried")


def test_pairs_and_rows_of_text_are_the_programs_and_what_is_not_tried_is_named():
    verdicts = dict(golden.check_file(FOLDER / "data.json"))
    tried = {group: verdict for group, verdict in verdicts.items() if verdict.compared}
    assert {group: verdict.text for group, verdict in tried.items()} == dict.fromkeys(
        ["captions/words", "captions/regions", "corpus"], "ok"
    )
    assert verdicts["captions/boxes"].text == "not tried: captions/boxes" and not verdicts["vcr"].passes


def test_weights_come_back_to_the_last_bit_from_a_wrapped_pickle(weights, tmp_path):
    wrapped = {"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 9}
    torch.save(wrapped, tmp_path / "vl-bert.model")
    model = read(read_weights(tmp_path / "vl-bert.model"))
    assert model.config.family == "vl-bert" and model.config.pooler and set(model.heads) == {"cls", "mvrc", "itm"}
    assert (model.num_labels, model.feature_dim, model.config.max_text_tokens) == (40, 2048, 62)
    written = to_official(model)
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], value) for name, value in weights.items())


def test_half_precision_is_cast_and_a_published_file_has_neither_pooler_nor_relation_head(weights):
    half = {n: v.half() for n, v in weights.items() if "pooler" not in n and "relationsip" not in n}
    model = read(half)
    assert not model.config.pooler and set(model.heads) == {"cls", "mvrc"}
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_an_end_to_end_file_loads_all_but_its_network_and_says_so(weights, caplog):
    network = {
        "image_feature_extractor.backbone.conv1.weight": torch.zeros(2, 3, 7, 7),
        "image_feature_extractor.roi_head_feature_extractor.0.bn1.num_batches_tracked": torch.tensor(5),
        "image_feature_extractor.head.0.0.conv1.weight": torch.zeros(2, 2, 1, 1),
    }
    del weights["object_mask_visual_embedding.weight"]
    with caplog.at_level(logging.WARNING):
        model = read(weights | network)
    assert (
        "3 weights of its convolutional network are left out, such as image_feature_extractor.backbone" in caplog.text
    )
    assert "lacks object_mask_visual_embedding.weight: zeros" in caplog.text
    assert not model.bert.region_embeddings.hidden_feature.any()


def test_what_does_not_fit_is_named(weights):
    with pytest.raises(InputError, match=r"no weight of VL-BERT's.*but such as uniter\.x"):
        read({"uniter.x": torch.zeros(1)})
    with pytest.raises(InputError, match=r"has 1 weights that VL-BERT has no place for, such as final_mlp\.1\.bias"):
        read(weights | {"final_mlp.1.bias": torch.zeros(1)})
    with pytest.raises(InputError, match=r"decoder\.weight differs from vlbert\.word_embeddings\.weight"):
        read(weights | {"vlbert.mlm_head.predictions.decoder.weight": torch.zeros(120, 32)})
    with pytest.raises(InputError, match=r"lacks vlbert\.position_embeddings\.weight"):
        read({name: value for name, value in weights.items() if "position_embeddings" not in name})
    with pytest.raises(InputError, match=r"vlbert\.end_embedding\.weight is absent, but .* should be \(1, 32\)"):
        read({name: value for name, value in weights.items() if "end_embedding" not in name})
    with pytest.raises(InputError, match="tells 40 classes of regions apart, but these features have 9 labels"):
        read(weights, num_labels=9)
    with pytest.raises(InputError, match="head 'answers' has no name in VL-BERT's program, which knows cls, itm, mvrc"):
        to_official(read(weights).with_heads({"answers": MATCHING["matching"]}, seed=0))
