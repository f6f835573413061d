"""The optimiser's options against the formulas of UNITER's program, written out in double precision."""

import math
from pathlib import Path

import pytest
import torch

from model.config import OptimConfig
from model.families.uniter_names import official_model, their_name
from model.training.optim import clip_and_step, epsilon, learning_rate_share_from_one, make_optimizer, make_schedule
from tests.golden.reference import Reference

ARRAYS = Path(__file__).parents[3] / "golden" / "uniter" / "pretraining.safetensors"
STEPS = 8
UNITER = OptimConfig(
    learning_rate=1e-3,
    beta1=0.9,
    beta2=0.98,
    eps=1e-6,
    eps_at="uncorrected",
    weight_decay=0.01,
    decays="uniter",
    warmup_share=0.25,
    schedule="from_one",
    gradient_scale=3,
    max_grad_norm=2,
)


class Twin:
    """UNITER's AdamW and schedule, by the published program's names."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = {name: weight.double() for name, weight in weights.items()}
        self.means = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.squares = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}

    def step(self, gradients: dict[str, torch.Tensor], number: int) -> None:
        """Gradients of three micro-batches, added up, clipped to 2."""
        summed = {name: 3 * gradient.double() for name, gradient in gradients.items()}
        length = math.sqrt(sum(float(gradient.square().sum()) for gradient in summed.values()))
        warmup = 2
        rate = 1e-3 * (number / warmup if number < warmup else (STEPS - number) / (STEPS - warmup)) or 1e-8
        for name, gradient in summed.items():
            gradient = gradient * min(1.0, 2 / (length + 1e-6))
            self.means[name] = 0.9 * self.means[name] + 0.1 * gradient
            self.squares[name] = 0.98 * self.squares[name] + 0.02 * gradient.square()
            scaled = rate * math.sqrt(1 - 0.98**number) / (1 - 0.9**number)
            weight = self.weights[name] - scaled * self.means[name] / (self.squares[name].sqrt() + 1e-6)
            if not ("bias" in name or "LayerNorm.weight" in name):
                weight = weight - rate * 0.01 * weight
            self.weights[name] = weight


def largest_difference(config: OptimConfig) -> float:
    """How far the weights are from the twin's after some steps on the same gradients."""
    reference = Reference.read(ARRAYS)
    model = official_model(reference.under("w/"), "arrays", sep_id=3, num_heads=4)
    named = {their_name(name): weight for name, weight in model.named_parameters()}
    first = {name: weight.detach().clone().double() for name, weight in named.items()}
    twin = Twin(first)
    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, config, STEPS)
    torch.manual_seed(0)
    for number in range(1, STEPS + 1):
        # Small enough in some steps that eps counts, and long enough in others that they are clipped.
        gradients = {name: 10.0 ** (number - 9) * torch.randn_like(weight) for name, weight in named.items()}
        for name, weight in named.items():
            weight.grad = gradients[name].clone()
        clip_and_step(optimizer, config, number)
        schedule.step()
        twin.step(gradients, number)
    assert all((twin.weights[name] - weight).abs().max() > 1e-4 for name, weight in first.items())
    return max(float((weight.detach() - twin.weights[name]).abs().max()) for name, weight in named.items())


def test_steps_are_those_of_uniters_program():
    """Single precision keeps 1e-7 of a weight a step; a step's length is 1e-3."""
    assert largest_difference(UNITER) < 2e-6


@pytest.mark.parametrize("option", ["beta2", "eps", "eps_at", "decays", "schedule", "gradient_scale", "max_grad_norm"])
def test_each_option_counts(option):
    default = OptimConfig.model_fields[option].default
    assert largest_difference(UNITER.model_copy(update={option: default})) > 1e-5


def test_what_decays_goes_by_the_programs_names():
    model = official_model(Reference.read(ARRAYS).under("w/"), "arrays", sep_id=3, num_heads=4)
    decayed, kept = ({id(weight) for weight in group["params"]} for group in make_optimizer(model, UNITER).param_groups)
    named = {their_name(name): id(weight) for name, weight in model.named_parameters()}
    also = ["uniter.img_embeddings.img_layer_norm.weight", "uniter.img_embeddings.pos_layer_norm.weight"]
    also += ["feat_regress.net.2.weight", "region_classifier.net.2.weight"]
    assert {named[name] for name in also} <= decayed
    norms = ["uniter.embeddings.LayerNorm.weight", "uniter.img_embeddings.LayerNorm.weight", "feat_regress.bias"]
    norms += ["cls.predictions.transform.LayerNorm.weight", "uniter.img_embeddings.img_layer_norm.bias"]
    assert {named[name] for name in norms} <= kept
    by_shape = make_optimizer(model, OptimConfig()).param_groups[1]["params"]
    assert {named[name] for name in also} <= {id(weight) for weight in by_shape}
    assert decayed | kept == set(named.values())


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (8, 0.9), (9, 1.0), (59, 0.5), (108, 0.01), (109, 0.0)])
def test_uniters_rate_counts_steps_from_one(step, share):
    assert learning_rate_share_from_one(step, 110, 10) == pytest.approx(share)


def test_the_last_step_of_uniters_schedule_has_a_rate_of_1e_8():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = make_schedule(optimizer, UNITER, 2)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [pytest.approx(1e-8)]


def test_defaults_are_adamws_and_a_gradient_is_left_as_long_as_it_is_where_asked_for():
    assert epsilon(OptimConfig(), 1) == epsilon(OptimConfig(), 100) == 1e-8
    weight = torch.nn.Linear(2, 1, bias=False)
    optimizer = make_optimizer(weight, OptimConfig())
    for limit, expected in ((None, 50.0), (5.0, 5.0)):
        weight.weight.grad = torch.tensor([[30.0, 40.0]])
        norm = clip_and_step(optimizer, OptimConfig(max_grad_norm=limit), 1)
        assert norm == 50 and weight.weight.grad.norm().item() == pytest.approx(expected, rel=1e-5)
