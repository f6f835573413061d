"""Held-out measurements during training: the pretraining losses, and recall over a small or a whole split."""

from __future__ import annotations

import torch

from model.data.captions import Captions
from model.data.feed import prefetch
from model.data.store import FeatureStore
from model.data.tokenizer import TokenTable, Vocabulary
from model.families.model import VisionLanguageModel
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig
from model.objectives.objective import PretrainBatch, chosen_objectives
from model.objectives.sum import pretraining_losses
from model.training.tally import loss_means

_BATCH_SIZE = 64
_SEED = 0
"""Of the choice, the masks and the wrong pairs of held-out captions: runs of all training seeds are measured alike."""


def loss_values(config: PretrainConfig) -> tuple[str, ...]:
    """Names of what `HeldOutLosses` measures."""
    objectives = chosen_objectives(config)
    return (
        "validation_loss",
        *(f"validation_{one.name}" for one in objectives),
        *(f"validation_{one.name}_accuracy" for one in objectives if one.has_accuracy),
    )


class HeldOutLosses:
    """The pretraining losses and accuracies over a fixed choice of pairs, masked and mismatched the same each time.

    The choice depends on the split and `validation_pairs` alone: not on the run's seed, nor on what its device takes.
    """

    def __init__(
        self,
        store: FeatureStore,
        captions: Captions,
        tokens: TokenTable,
        vocabulary: Vocabulary,
        max_regions: int,
        config: PretrainConfig,
        picture_regions: int = 0,
    ) -> None:
        self._pairs = min(config.validation_pairs, len(tokens))
        self._steps = -(-self._pairs // (config.device_batch_size or _BATCH_SIZE))
        # The first places of an order of their own, each caption once.
        self._config = config.model_copy(
            update={"batch_size": self._pairs, "seed": _SEED, "corpora": {}, "token_batches": None}
        )
        self._batches = PretrainBatches(
            store, captions, tokens, vocabulary, max_regions, self._config, picture_regions=picture_regions
        )

        # Where each step has one objective, each is measured as in its own steps.
        self._only: tuple[str | None, ...] = (None,) if config.combine == "sum" else config.chosen

    @torch.inference_mode()
    def __call__(self, model: VisionLanguageModel, device: torch.device) -> dict[str, float]:
        """Values named as in `loss_values`; without those of an objective that has no target among the pairs."""
        names = self._config.chosen
        sums, counts = torch.zeros(2 * len(names), device=device), torch.zeros(len(names))
        for batch in prefetch(self._slice, 0, self._steps * len(self._only)):
            counts += batch.counts
            with torch.autocast(device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
                part = pretraining_losses(model, batch.to(device), self._config)
            sums += torch.cat([part.sums, part.correct])
        totals, correct = sums.view(2, -1).tolist()
        means = loss_means(names, totals, correct, counts.tolist())
        return {f"validation_{name}": value for name, value in means.items()}

    def _slice(self, number: int) -> PretrainBatch:
        """One of as equal slices as possible of the pairs."""
        turn, number = divmod(number, self._steps)
        first, stop = (part * self._pairs // self._steps for part in (number, number + 1))
        return self._batches.slice(0, first, stop, self._only[turn])
