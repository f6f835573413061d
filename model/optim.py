"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

from torch import nn
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
    return AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))


def learning_rate_share(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the peak at a step: linear from near 0 to 1 over the warm-up, then linear to 0 at `steps`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return max(0.0, (steps - step) / max(1, steps - warmup_steps))


def make_schedule(optimizer: AdamW, config: OptimConfig, steps: int) -> LambdaLR:
    warmup = round(config.warmup_share * steps)
    return LambdaLR(optimizer, lambda step: learning_rate_share(step, steps, warmup))
