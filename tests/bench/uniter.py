"""A pretraining step of UNITER against one of Unicoder-VL, and what word-region alignment adds: CPU, one thread.

Forward and backward of the same pairs through four layers of base width. A step of UNITER has one objective: the mean
is over its published ratios, itm : mlm : mrfr : mrc-kl as 2 : 2 : 1 : 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from model.families.configs import AnyEncoderConfig
from model.families.model import VisionLanguageModel
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.families.uniter_config import UniterConfig
from model.objectives.config import PretrainConfig
from model.objectives.objective import PretrainBatch, objective_heads
from model.objectives.sum import pretraining_losses
from model.objectives.targets import Targets
from tests.bench.clock import cpu_cost
from tests.bench.step import LABELS, VOCABULARY, WIDTH, captions_like_coco, make_batch

LAYERS, PAIRS, ROUNDS = 4, 16, 5
RATIOS = {"itm": 2, "mlm": 2, "mrfr": 1, "mrc-kl": 1}


def run() -> Iterator[str]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = make_batch(captions_like_coco(PAIRS))
    yield f"pretraining step on the CPU, {LAYERS} layers of base width, {PAIRS} pairs of real lengths:"
    one = _step(UnicoderVLConfig(num_layers=LAYERS), PretrainConfig(), batch)
    config = PretrainConfig(objectives=dict(RATIOS), combine="draw", alignment_weight=0)
    costs = {name: _step(UniterConfig(num_layers=LAYERS), config, _only(batch, name)) for name in RATIOS}
    mean = sum(RATIOS[name] * cost for name, cost in costs.items()) / sum(RATIOS.values())
    each = ", ".join(f"{name} {cost / one:.2f}" for name, cost in costs.items())
    yield f"  UNITER {mean:.2f} CPU-s, {mean / one:.2f} x Unicoder-VL's ({one:.2f}); of it {each} x"
    aligned = config.model_copy(update={"alignment_weight": 0.1})
    with_it = _step(UniterConfig(num_layers=LAYERS), aligned, _only(batch, "itm"))
    yield f"  itm with alignment {with_it:.2f} CPU-s, {with_it / costs['itm']:.3f} x without"


def _only(batch: PretrainBatch, name: str) -> PretrainBatch:
    """The batch of a step that has one of UNITER's objectives."""
    regions = torch.rand(*batch.regions.mask.shape, 1 + LABELS)
    places, none = batch.targets["moc"], Targets.none()
    scores = regions / regions.sum(-1, keepdim=True)
    targets = {
        "itm": batch.targets["vlm"],
        "mlm": batch.targets["mlm"],
        "mrfr": replace(places, values=torch.zeros_like(places.places)),
        "mrc-kl": replace(places, values=scores[places.pairs, places.places]),
    }
    return replace(batch, targets={one: values if one == name else none for one, values in targets.items()})


def _step(encoder: AnyEncoderConfig, config: PretrainConfig, batch: PretrainBatch) -> float:
    model = VisionLanguageModel(VOCABULARY, WIDTH, LABELS, sep_id=102, encoder=encoder.model_dump())
    model = model.with_heads(objective_heads(config, model.sizes), seed=0).train()

    def step() -> None:
        pretraining_losses(model, batch, config).sums.sum().backward()
        model.zero_grad(set_to_none=True)

    return cpu_cost(step, ROUNDS)
