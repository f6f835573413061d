"""Parameter groups, the learning-rate schedule, and a step that is skipped without asking the host."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from model.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW; biases and LayerNorms do not decay (BERT's rule: every parameter of one dimension)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def clip_and_step(optimizer: AdamW, max_grad_norm: float) -> Tensor:
    """Clip the gradient and take the step, unless its length is not finite: then nothing changes.

    The device decides alone, so that the host need not wait for it: fused AdamW looks at `found_inf`, which torch's own
    GradScaler sets for the same purpose. With several processes the gradient, and so the decision, is the same in all.

    Returns:
        The gradient's length before clipping, a scalar.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.found_inf = 1 - torch.isfinite(norm).float()  # type: ignore[attr-defined]
    optimizer.step()
    return norm


def learning_rate_share(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the peak at a step: linear from near 0 to 1 over the warm-up, then linear to 0 at `steps`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))


def make_schedule(optimizer: AdamW, config: OptimConfig, steps: int) -> LambdaLR:
    warmup = round(config.warmup_share * steps)
    return LambdaLR(optimizer, lambda step: learning_rate_share(step, steps, warmup))
