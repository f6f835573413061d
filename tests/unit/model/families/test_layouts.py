import pytest
import torch

from model.families.layouts import Packed, Padded, choose_layout
from model.families.unicoder_vl import UnicoderVLEncoder
from model.families.unicoder_vl_config import UnicoderVLConfig

WIDTH, HEADS = 32, 4


def make_encoder(sequences, **changes):
    torch.manual_seed(0)
    config = UnicoderVLConfig(
        hidden_size=WIDTH, num_layers=3, num_heads=HEADS, intermediate_size=64, initializer_range=0.2,
        dropout=0.0, attention_dropout=0.0, sequences=sequences, **changes,
    )  # fmt: skip
    return UnicoderVLEncoder(20, 8, 3, config)


@pytest.fixture
def ragged():
    """States with holes: captions padded before the regions, regions before the closing mark."""
    torch.manual_seed(1)
    mask = torch.rand(6, 11) < 0.6
    mask[:, 0] = mask[:, -1] = True
    mask[2] = True
    return torch.randn(6, 11, WIDTH), mask


def test_packed_states_equal_padded_ones(ragged):
    states, mask = ragged
    padded, packed = make_encoder("padded").run(states, mask), make_encoder("packed").run(states, mask)
    torch.testing.assert_close(packed[mask], padded[mask], atol=1e-5, rtol=1e-5)


def test_packed_first_states_equal_padded_ones(ragged):
    states, mask = ragged
    packed = make_encoder("packed")
    cls = packed.run(states, mask, cls_only=True)
    assert cls.shape == (6, 1, WIDTH)
    torch.testing.assert_close(cls[:, 0], packed.run(states, mask)[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cls, make_encoder("padded").run(states, mask, cls_only=True), atol=1e-5, rtol=1e-5)


def test_packed_gradients_equal_padded_ones(ragged):
    states, mask = ragged
    found = []
    for sequences in ("padded", "packed"):
        encoder, inputs = make_encoder(sequences), states.clone().requires_grad_()
        encoder.run(inputs, mask)[mask].square().sum().backward()
        found.append([inputs.grad, *(p.grad for p in encoder.encoder.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_auto_packs_where_there_is_padding_and_only_there(ragged):
    _, mask = ragged
    assert isinstance(choose_layout("auto", mask), Packed)
    assert isinstance(choose_layout("auto", torch.ones_like(mask)), Padded)
    assert isinstance(choose_layout("padded", mask), Padded)


def test_packed_layers_see_the_real_positions_alone(ragged):
    states, mask = ragged
    encoder, seen = make_encoder("packed"), []
    encoder.encoder["layer"][1].output.dense.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    encoder.run(states, mask)
    assert seen == [(int(mask.sum()), 64)]


def test_entering_and_leaving_give_back_the_real_positions(ragged):
    states, mask = ragged
    packed = Packed(mask)
    assert torch.equal(packed.leave(packed.enter(states))[mask], states[mask])
    assert torch.equal(packed.first(packed.enter(states)), states[:, 0])


def test_attention_dropout_acts_in_training_in_both_layouts(ragged):
    states, mask = ragged
    for sequences in ("padded", "packed"):
        encoder = make_encoder(sequences)
        for layer in encoder.encoder["layer"]:
            layer.attention["self"]._dropout = 0.5
        quiet = encoder.eval().run(states, mask)
        assert torch.equal(encoder.run(states, mask), quiet)
        assert not torch.allclose(encoder.train().run(states, mask)[mask], quiet[mask], atol=1e-3)
