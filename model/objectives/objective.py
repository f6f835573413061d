"""What an objective is: what it hides and predicts, the heads it reads, its loss.

One objective is one file of this folder with an `OBJECTIVE`, and one line in `OBJECTIVES` (`config.py`). Its counts,
weights, log lines, accuracy, validation and heads follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.data.batch import Movable, Regions, Words
from model.families.config import Heads, Sizes
from model.families.family import Encoded
from model.families.model import VisionLanguageModel
from model.objectives.config import OBJECTIVES, PretrainConfig
from model.objectives.hiding import Replacements
from model.objectives.pairing import Pair
from model.objectives.targets import Targets

Loss = tuple[Tensor, Tensor | None]
"""Summed over the targets of this part of the batch, f32; and how many of them are right, where that can be said."""


@dataclass(frozen=True)
class Draft:
    """B pairs on the host, and what is hidden of them: all that targets are made from.

    ids (B, T): word pieces, none hidden. hidden_words (B, T): pieces that were chosen, whatever stands in their place.
    treatments (B, R): of regions, see `model.objectives.masking`. learns (B, 1): False for pairs whose hidden words and
    regions are not to be predicted. matched, opposed (B,): see `Pair`.
    """

    config: PretrainConfig
    pairs: Sequence[Pair]
    ids: npt.NDArray[np.int64]
    hidden_words: npt.NDArray[np.bool_]
    regions: Regions
    treatments: npt.NDArray[np.int8]
    learns: npt.NDArray[np.bool_]
    matched: npt.NDArray[np.bool_]
    opposed: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PretrainBatch(Movable):
    """B pairs, what is hidden of them, and the targets of every chosen objective by its name.

    missing: () i64, captions for which no wrong pair was found. corpus: (C,) f32, 1 at the corpus that the pairs are
    of. text: rows without a picture that are read beside the pairs, their hidden pieces replaced; None: none.
    """

    words: Words
    regions: Regions
    hidden: Replacements
    targets: dict[str, Targets]
    missing: Tensor
    corpus: Tensor = field(default_factory=lambda: torch.ones(1))
    text: Words | None = None

    @property
    def counts(self) -> Tensor:
        """(C K,) f32: how many targets each objective has on each corpus."""
        counts = torch.tensor([len(targets) for targets in self.targets.values()], dtype=torch.float32)
        return by_corpus(counts, self.corpus)


def by_corpus(values: Tensor, corpus: Tensor) -> Tensor:
    """(C K,) the values (K,) of a step at its corpus (C,), zeros at the others."""
    return torch.outer(corpus, values).flatten()


@dataclass(frozen=True)
class Objective:
    """One thing that pretraining learns.

    Attributes:
        name: in the config, in metrics and in logs.
        targets: what is to be predicted of a draft. It may depend on each pair alone, not on what else is in the part.
        loss: a sum in f32 over the targets, whose gradient is zero where there are none: under torchrun every process
            must reach every parameter. No `.item()`, no boolean index: the host would wait for the GPU.
        heads: those that the loss reads.
        hides: what is hidden in its steps. None: nothing, unless another objective of the step asks for it.
        reads_text: rows of text alone are read beside the pairs, and words of these are hidden.
        reads_cls: the loss reads the state of [CLS], through the pooler where there is one.
        needs_wrong_pairs: pairs are made wrong in its steps, as `PretrainConfig.matching` says.
        needs_class_scores: regions of its steps come with the detector's distribution over classes.
        has_accuracy: whether the loss says how many targets are right.
    """

    name: str
    targets: Callable[[Draft], Targets]
    loss: Callable[[VisionLanguageModel, Encoded, PretrainBatch, Targets, PretrainConfig], Loss]
    heads: Callable[[Sizes], Heads]
    hides: Literal["words", "regions"] | None = None
    reads_text: bool = False
    reads_cls: bool = False
    needs_wrong_pairs: bool = False
    needs_class_scores: bool = False
    has_accuracy: bool = True


@cache
def load_objective(name: str) -> Objective:
    found: Objective = import_module(f"model.objectives.{OBJECTIVES[name]}").OBJECTIVE
    assert found.name == name, (found.name, name)
    return found


def chosen_objectives(config: PretrainConfig) -> tuple[Objective, ...]:
    """In the order of `OBJECTIVES`, so that sums do not depend on how a config was written."""
    return tuple(load_objective(name) for name in config.chosen)


def objective_heads(config: PretrainConfig, sizes: Sizes) -> Heads:
    """The heads that a run of these objectives trains."""
    return {name: head for one in chosen_objectives(config) for name, head in one.heads(sizes).items()}
