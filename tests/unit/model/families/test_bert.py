"""Small BERTs made by transformers, saved as users have them, loaded into ours."""

import json
import logging
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining, BertModel

from model.data.batch import pad_words
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary
from model.errors import InputError
from model.families.bert import load_bert, read_weights
from model.families.bert_folder import find_bert
from model.families.build import build_model
from model.families.configs import of_family
from tests.toy import VOCABULARY

LAYERS = 4
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 440449768\n"


def make_bert(folder, **changes):
    torch.manual_seed(3)
    config = BertConfig(
        **{
            "vocab_size": 13,
            "hidden_size": 32,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 16,
            "initializer_range": 0.2,
            **changes,
        }
    )
    bert = BertForPreTraining(config).eval()
    for parameter in bert.parameters():  # New LayerNorms and biases are ones and zeros, and would prove nothing.
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return bert


@pytest.fixture
def world(eight_pairs, tmp_path):
    source, path = eight_pairs
    return FeatureStore(source.features_path), load_vocabulary(path), tmp_path / "bert"


def as_bin(folder, rename=lambda name: name):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({rename(name): weight for name, weight in weights.items()}, folder / "pytorch_model.bin")


def tensorflow_names(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def words_only(model, words):
    """Our last states (B, T, H) of captions alone, as BERT would see them."""
    text = model.bert.embed_words(words).states
    return model.bert.run(text, words.mask)


def some_words():
    return pad_words([np.array(row, np.int32) for row in ([2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 3])], 0)


@pytest.mark.parametrize("form", ["safetensors", "bin", "bin with TensorFlow's names"])
@pytest.mark.parametrize("segments", ["modality", "none"])
def test_captions_alone_come_out_as_from_bert(world, tiny, form, segments):
    store, vocabulary, folder = world
    bert = make_bert(folder)
    if form != "safetensors":
        as_bin(folder, tensorflow_names if "names" in form else lambda name: name)
    encoder = tiny.model_copy(update={"bert": str(folder), "num_layers": LAYERS, "segments": segments})
    model, words = build_model(encoder, store, vocabulary, seed=0).eval(), some_words()
    expected = bert.bert(input_ids=words.ids, attention_mask=words.mask).last_hidden_state
    states = words_only(model, words)
    torch.testing.assert_close(states[words.mask], expected[words.mask], atol=1e-5, rtol=1e-5)
    logits = model.cls["predictions"](states[words.mask], model.bert.embeddings.word_embeddings.weight)
    torch.testing.assert_close(logits, bert.cls.predictions(expected[words.mask]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_first_layers_of_a_deeper_bert(world, tiny, layers):
    store, vocabulary, folder = world
    make_bert(folder)
    first = BertModel.from_pretrained(folder, num_hidden_layers=layers, add_pooling_layer=False).eval()
    encoder = tiny.model_copy(update={"bert": str(folder), "num_layers": layers})
    model, words = build_model(encoder, store, vocabulary, seed=0).eval(), some_words()
    expected = first(input_ids=words.ids, attention_mask=words.mask).last_hidden_state
    torch.testing.assert_close(words_only(model, words)[words.mask], expected[words.mask], atol=1e-5, rtol=1e-5)


def test_the_pooler_comes_along_and_what_only_ours_has_stays_new(world, tiny):
    store, vocabulary, folder = world
    bert = make_bert(folder)
    encoder = tiny.model_copy(update={"pooler": True})
    fresh = build_model(encoder, store, vocabulary, seed=0).state_dict()
    model = build_model(encoder.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)
    states = torch.randn(5, 32)
    expected = bert.bert.pooler(states.unsqueeze(1))
    torch.testing.assert_close(model.pooler(states), expected)
    for name, weight in model.state_dict().items():
        is_new = name.startswith(("bert.region_embeddings", "region_labels", "matching"))
        assert torch.equal(weight, fresh[name]) == is_new, name


def test_longer_position_and_segment_tables_give_their_first_rows(world, tiny):
    store, vocabulary, folder = world
    bert = make_bert(folder, max_position_embeddings=40, type_vocab_size=3)
    encoder = tiny.model_copy(update={"bert": str(folder), "segments": "modality"})
    tables, theirs = build_model(encoder, store, vocabulary, seed=0).bert.embeddings, bert.bert.embeddings
    assert torch.equal(tables.position_embeddings.weight, theirs.position_embeddings.weight[:16])
    assert torch.equal(tables.token_type_embeddings.weight, theirs.token_type_embeddings.weight[:2])


def test_vl_bert_takes_berts_words_layers_and_two_segments_and_all_else_is_new(world, tiny):
    store, vocabulary, folder = world
    bert = make_bert(folder)
    encoder = of_family(tiny, "vl-bert")
    fresh = build_model(encoder, store, vocabulary, seed=0).bert
    model = build_model(encoder.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)
    table = model.bert.embeddings.token_type_embeddings.weight
    assert torch.equal(table[:2], bert.bert.embeddings.token_type_embeddings.weight)
    assert torch.equal(table[2], fresh.embeddings.token_type_embeddings.weight[2])
    for name, weight in fresh.named_parameters():
        if name.startswith(("region_embeddings.", "end_token.")):
            assert torch.equal(weight, model.bert.get_parameter(name)), name
        else:
            is_segments = "token_type" in name
            assert is_segments or torch.equal(model.bert.get_parameter(name), bert.bert.get_parameter(name)), name


def test_a_shorter_segment_table_fills_the_rows_that_it_has(world, tiny):
    store, vocabulary, folder = world
    bert = make_bert(folder, type_vocab_size=1)
    encoder = tiny.model_copy(update={"segments": "modality"})
    fresh = build_model(encoder, store, vocabulary, seed=0).bert.embeddings.token_type_embeddings.weight
    encoder = encoder.model_copy(update={"bert": str(folder)})
    table = build_model(encoder, store, vocabulary, seed=0).bert.embeddings.token_type_embeddings.weight
    assert torch.equal(table[0], bert.bert.embeddings.token_type_embeddings.weight[0])
    assert torch.equal(table[1], fresh[1])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 16}, r"\(13, 16\) but this model's is \(13, 32\)"),
        ({"intermediate_size": 48}, r"intermediate.dense.weight is \(48, 32\) but this model's is \(64, 32\)"),
        ({"max_position_embeddings": 8}, r"position_embeddings.weight is \(8, 32\) but this model's is \(16, 32\)"),
        ({"vocab_size": 20}, r"word_embeddings.weight is \(20, 32\) but this model's is \(13, 32\)"),
        ({"num_hidden_layers": 1}, "num_hidden_layers=1, but encoder.num_layers=2; set encoder.num_layers=1"),
        ({"num_attention_heads": 8}, "num_attention_heads=8, but encoder.num_heads=4; set encoder.num_heads=8"),
        ({"hidden_act": "relu"}, "hidden_act=relu, but encoder.hidden_act=gelu; set encoder.hidden_act=relu"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05, but encoder.layer_norm_eps=1e-12"),
    ],
)
def test_a_bert_that_does_not_fit_is_refused_with_both_sizes_named(world, tiny, sizes, message):
    store, vocabulary, folder = world
    make_bert(folder, **sizes)
    with pytest.raises(InputError, match=message):
        build_model(tiny.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)


@pytest.mark.parametrize("setting", [
    {"hidden_act": "tanh"}, {"model_type": "roberta"}, {"is_decoder": True}, {"add_cross_attention": True},
    {"position_embedding_type": "relative_key"}, {"quantization_config": {"bits": 8}},
    {"sep_token_id": 4}, {"cls_token_id": 0}, {"mask_token_id": 7},
])  # fmt: skip
def test_a_setting_that_is_not_supported_is_refused_by_name_and_value(world, tiny, setting):
    store, vocabulary, folder = world
    make_bert(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | setting))
    ((name, value),) = setting.items()
    with pytest.raises(InputError, match=re.escape(f"{name}={json.dumps(value)}, but ")):
        build_model(tiny.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"layer_norm_eps": 0.5}, {"layer_norm_eps": 0.5}),
        ({"hidden_act": "gelu_new"}, {"hidden_act": "gelu_new"}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"hidden_act": "gelu_new"}),
        ({"hidden_act": "relu"}, {"hidden_act": "relu"}),
        ({"hidden_act": "silu"}, {"hidden_act": "silu"}),
        ({"hidden_act": "gelu_python", "pad_token_id": 4}, {}),
    ],
)
def test_settings_that_the_encoder_has_too_are_honoured(world, tiny, theirs, ours):
    store, vocabulary, folder = world
    bert = make_bert(folder, **theirs)
    encoder = tiny.model_copy(update={"bert": str(folder), "num_layers": LAYERS, **ours})
    model, words = build_model(encoder, store, vocabulary, seed=0).eval(), some_words()
    expected = bert.bert(input_ids=words.ids, attention_mask=words.mask).last_hidden_state
    states = words_only(model, words)
    torch.testing.assert_close(states[words.mask], expected[words.mask], atol=1e-5, rtol=1e-5)
    logits = model.cls["predictions"](states[words.mask], model.bert.embeddings.word_embeddings.weight)
    torch.testing.assert_close(logits, bert.cls.predictions(expected[words.mask]), atol=1e-4, rtol=1e-5)
    assert (encoder.identity() == tiny.model_copy(update={"num_layers": LAYERS}).identity()) == (not ours)


def test_a_bert_without_heads_gives_what_it_has_and_the_log_names_what_is_new(world, tiny, caplog):
    store, vocabulary, folder = world
    bert = make_bert(folder).bert
    bert.pooler = None
    bert.save_pretrained(folder)
    assert not any(name.startswith(("cls.", "pooler.")) for name in read_weights(folder))
    encoder = tiny.model_copy(update={"pooler": True})
    fresh = build_model(encoder, store, vocabulary, seed=0).state_dict()
    with caplog.at_level(logging.INFO):
        model = build_model(encoder.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)
    new = ("bert.region_embeddings", "region_labels", "matching", "cls.predictions", "pooler")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, fresh[name]) == name.startswith(new), name
    assert f"encoder.bert={folder}: 36 weights read from " in caplog.text
    assert "new: the masked-word head, the pooler; of BERT not used: layers 3 to 4" in caplog.text


def test_the_log_says_what_of_a_bert_is_not_used(world, tiny, caplog):
    store, vocabulary, folder = world
    make_bert(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {f"bert.more.{number}": torch.ones(2) for number in range(5)}, folder / "model.safetensors")
    with caplog.at_level(logging.INFO):
        build_model(tiny.model_copy(update={"bert": str(folder), "num_layers": 1}), store, vocabulary, seed=0)
    unused = "layers 2 to 4, the pooler, the next-sentence head, more.0, more.1, more.2, 2 more"
    assert caplog.text.rstrip().endswith(f"new: nothing; of BERT not used: {unused}")


def test_a_head_that_has_a_table_of_its_own_is_left_new(world, tiny, caplog):
    store, vocabulary, folder = world
    make_bert(folder)
    weights = load_file(folder / "model.safetensors")
    table = weights["bert.embeddings.word_embeddings.weight"]
    for decoder, is_new in ((table, False), (table + 1, True)):
        save_file(weights | {"cls.predictions.decoder.weight": decoder.clone()}, folder / "model.safetensors")
        model = build_model(tiny.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)
        assert torch.equal(model.cls["predictions"].bias, weights["cls.predictions.bias"]) != is_new


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"0.auto_model.{name.removeprefix('bert.')}",
        lambda name: f"text.{name}",
        lambda name: name.removeprefix("bert."),
    ],
)
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_weights_as_a_training_program_wrapped_them_are_found(world, tiny, rename, key):
    *_, folder = world
    make_bert(folder)
    plain = read_weights(folder)
    as_bin(folder, rename)
    if key is not None:
        weights = torch.load(folder / "pytorch_model.bin")
        torch.save({key: weights, "epoch": 3}, folder / "pytorch_model.bin")
    found = {name.removeprefix("0.auto_model."): weight for name, weight in read_weights(folder).items()}
    assert found.keys() == plain.keys()
    assert all(torch.equal(weight, plain[name]) for name, weight in found.items())


def test_weights_that_are_not_finite_are_named(world, tiny):
    store, vocabulary, folder = world
    make_bert(folder)
    encoder = tiny.model_copy(update={"bert": str(folder)})
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.3.output.dense.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    build_model(encoder, store, vocabulary, seed=0)  # of a layer that ours does not take
    weights["bert.encoder.layer.0.output.dense.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.bias"
    with pytest.raises(
        InputError, match=rf"model\.safetensors has 1 of 32 values of {name} that are no finite numbers"
    ):
        build_model(encoder, store, vocabulary, seed=0)
    save_file(weights | {name: torch.ones(32, dtype=torch.int8)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=rf"model\.safetensors holds {name} as int8"):
        build_model(encoder, store, vocabulary, seed=0)


def test_another_vocabulary_of_the_same_size_is_refused(world, tiny):
    store, vocabulary, folder = world
    make_bert(folder)
    pieces = [*VOCABULARY[:-1], "boat"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    with pytest.raises(InputError, match=r"not the vocabulary in use, .*line 13 differs.*; set vocabulary_path=.*bert"):
        build_model(tiny.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)


def test_a_cased_bert_and_a_lower_casing_vocabulary_are_refused_with_both_named(world, tiny):
    store, vocabulary, folder = world
    make_bert(folder)
    encoder = tiny.model_copy(update={"bert": str(folder)})
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    message = rf"bert was trained on .* vocabulary .*vocab\.txt \(do_lower_case=false against true\); set .*={folder}"
    with pytest.raises(InputError, match=message):
        build_model(encoder, store, vocabulary, seed=0)
    build_model(encoder, store, load_vocabulary(folder), seed=0)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    build_model(encoder, store, vocabulary, seed=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor pytorch_model.bin"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"rubbish"), "model.safetensors cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(LFS), "model.safetensors is a Git LFS pointer"),
        (lambda folder: (folder / "config.json").write_bytes(LFS), "config.json is a Git LFS pointer"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "tf_model.h5"),
            r"\(it has tf_model\.h5\); name",
        ),
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(world, tiny, spoil, message):
    store, vocabulary, folder = world
    make_bert(folder)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        build_model(tiny.model_copy(update={"bert": str(folder)}), store, vocabulary, seed=0)


def test_a_pickle_with_code_in_it_is_refused(world):
    *_, folder = world
    make_bert(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"bert.weight": Fraction(1, 2)}, folder / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"bin is more than numbers: .*fractions\.Fraction.*; save its weights alone"
    ) as at:
        read_weights(folder)
    assert "weights_only" not in str(at.value)


def test_a_hub_name_that_cannot_be_had_is_one_sentence(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"encoder.bert='nobody/no-such-bert' is no folder here") as raised:
        find_bert("nobody/no-such-bert")
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="is no folder here"):
        find_bert("not/a/name")


@pytest.mark.parametrize("kept", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_name_is_fetched_file_by_file(world, tiny, monkeypatch, kept):
    store, vocabulary, folder = world
    bert = make_bert(folder)
    if kept == "pytorch_model.bin":
        as_bin(folder)

    def from_the_hub(name, file):
        assert name == "someone/small-bert"
        if not (folder / file).is_file():
            raise EntryNotFoundError(file)
        return str(folder / file)

    monkeypatch.setattr("model.data.hub.hf_hub_download", from_the_hub)
    model = build_model(tiny.model_copy(update={"bert": "someone/small-bert"}), store, vocabulary, seed=0)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, bert.bert.embeddings.word_embeddings.weight)
    load_bert(model, str(folder), vocabulary)
