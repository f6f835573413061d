"""Parameter groups, the learning-rate schedule, and a step that is skipped without asking the host.

Defaults are AdamW's and BERT's; `OptimConfig` has options for what UNITER's and VL-BERT's programs do otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from model.config import OptimConfig
from model.families.uniter_names import their_name

_NO_DECAY = ("bias", "LayerNorm.weight")
"""In the names of UNITER's program."""
_LAST_RATE = 1e-8
"""Of UNITER's schedule, where it comes to zero."""


def make_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW. Which parameters decay is `OptimConfig.decays`: by default not biases and LayerNorms."""
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decay = {name for name, parameter in parameters if _decays(name, parameter, config)}
    groups = [
        {"params": [p for name, p in parameters if name in decay], "weight_decay": config.weight_decay},
        {"params": [p for name, p in parameters if name not in decay], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def _decays(name: str, parameter: Tensor, config: OptimConfig) -> bool:
    if config.decays != "uniter":
        return config.decays == "all" or parameter.ndim > 1
    published = their_name(name) or name
    return not any(part in published for part in _NO_DECAY)


def epsilon(config: OptimConfig, step: int) -> float:
    """What AdamW is to add at a step, from 1.

    AdamW divides by root(v / c) + eps, c = 1 - beta2^step correcting v's bias; UNITER's optimiser multiplies by root(c)
    and divides by root(v) + eps, which is the same with eps / root(c). Steps that were left out count, too.
    """
    correction = 1.0 if config.eps_at == "corrected" else math.sqrt(1 - config.beta2**step)
    return config.eps / correction


def clip_and_step(optimizer: AdamW, config: OptimConfig, step: int) -> Tensor:
    """Clip the gradient and take step `step`, from 1, unless its length is not finite: then nothing changes.

    UNITER's program decays after the update, AdamW before: they differ by rate x decay of an update, below rounding.
    With VL-BERT's, `config.decay_at` says so, since its array tells them apart.

    The device decides alone, so that the host need not wait for it: fused AdamW looks at `found_inf`, which torch's own
    GradScaler sets for the same purpose. With several processes the gradient, and so the decision, is the same in all.

    Returns:
        The gradient's length before clipping, a scalar.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if config.gradient_scale != 1:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], config.gradient_scale)
    norm = torch.nn.utils.clip_grad_norm_(
        parameters, math.inf if config.max_grad_norm is None else config.max_grad_norm
    )
    for group in optimizer.param_groups:
        group["eps"] = epsilon(config, step)
    optimizer.found_inf = 1 - torch.isfinite(norm).float()  # type: ignore[attr-defined]
    if config.decay_at == "before":
        optimizer.step()
        return norm
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    optimizer.step()
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
        # Without asking whether the step was left out: then nothing decays, either.
        if decay:
            kept = 1 - group["lr"] * decay * torch.isfinite(norm).float()
            torch._foreach_mul_([p.detach() for p in group["params"] if p.grad is not None], kept)
    return norm


def learning_rate_share(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the peak at a step: linear from near 0 to 1 over the warm-up, then linear to 0 at `steps`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))


def learning_rate_share_from_one(step: int, steps: int, warmup_steps: int) -> float:
    """The same as UNITER's program has it: step 0 counts as 1, and the last one has no rate."""
    number = step + 1
    if number < warmup_steps:
        return number / warmup_steps
    return max(0.0, (steps - number) / max(1, steps - warmup_steps))


def make_schedule(optimizer: AdamW, config: OptimConfig, steps: int) -> LambdaLR:
    warmup = round(config.warmup_share * steps)
    if config.schedule == "from_zero":
        return LambdaLR(optimizer, lambda step: learning_rate_share(step, steps, warmup))
    least = _LAST_RATE / config.learning_rate
    return LambdaLR(optimizer, lambda step: learning_rate_share_from_one(step, steps, warmup) or least)
