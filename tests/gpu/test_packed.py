"""The packed path on a GPU: torch's `varlen_attn` in half precision against the padded path."""

import pytest
import torch

from model.families.layouts import has_varlen
from model.families.unicoder_vl import UnicoderVLEncoder
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.objectives.hiding import seeded_normal

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: torch sees none"),
]
WIDTH = 256


def make_encoder(sequences, attention_dropout=0.0):
    torch.manual_seed(0)
    config = UnicoderVLConfig(
        hidden_size=WIDTH, num_layers=4, num_heads=4, intermediate_size=512,
        dropout=0.0, attention_dropout=attention_dropout, sequences=sequences,
    )  # fmt: skip
    return UnicoderVLEncoder(100, 8, 3, config).cuda()


@pytest.fixture
def ragged():
    torch.manual_seed(1)
    mask = torch.rand(32, 90) < 0.6
    mask[:, 0] = mask[:, -1] = True
    return torch.randn(32, 90, WIDTH, device="cuda"), mask.cuda()


@pytest.mark.parametrize("cls_only", [False, True])
def test_packed_states_equal_padded_ones_in_fp32(ragged, cls_only):
    states, mask = ragged
    packed = make_encoder("packed").run(states, mask, cls_only)
    padded = make_encoder("padded").run(states, mask, cls_only)
    real = mask[:, :1] if cls_only else mask
    torch.testing.assert_close(packed[real], padded[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cls_only", [False, True])
def test_varlen_attention_equals_padded_attention_within_bf16(ragged, cls_only):
    states, mask = ragged
    with torch.autocast("cuda", torch.bfloat16):
        packed = make_encoder("packed").run(states, mask, cls_only).float()
        padded = make_encoder("padded").run(states, mask, cls_only).float()
    real = mask[:, :1] if cls_only else mask
    torch.testing.assert_close(packed[real], padded[real], atol=5e-2, rtol=5e-2)
    assert torch.nn.functional.cosine_similarity(packed[real], padded[real]).min() > 0.9995


def test_varlen_gradients_equal_padded_ones_within_bf16(ragged):
    states, mask = ragged
    gradients = []
    for sequences in ("packed", "padded"):
        encoder = make_encoder(sequences)
        with torch.autocast("cuda", torch.bfloat16):
            loss = encoder.run(states, mask)[mask].float().square().mean()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.encoder.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999


def test_attention_dropout_leaves_varlen_and_still_trains(ragged):
    states, mask = ragged
    encoder = make_encoder("packed", attention_dropout=0.1).train()
    with torch.autocast("cuda", torch.bfloat16):
        first, second = encoder.run(states, mask), encoder.run(states, mask)
    assert not torch.equal(first[mask], second[mask])
    first[mask].float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.encoder.parameters())


def test_what_varlen_takes():
    states = torch.zeros(5, 256, device="cuda", dtype=torch.bfloat16)
    assert has_varlen(states, 4) and not has_varlen(states.float(), 4)
    assert not has_varlen(states[:, :20], 4)


def test_seeded_noise_is_that_of_the_cpu():
    seeds = torch.arange(50)
    torch.testing.assert_close(seeded_normal(seeds.cuda(), 512).cpu(), seeded_normal(seeds, 512), atol=1e-4, rtol=1e-4)
