"""Which corpus and which objectives each step trains: a function of the seed and the step, the same in all processes.

UNITER (arXiv:1909.11740) repeats every pair of task and corpus as often as its ratio says, and draws one of them a
step; here the pair is drawn by its ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.data.draws import draw_uniforms
from model.objectives.config import PretrainConfig
from model.objectives.objective import Objective, chosen_objectives

_BLOCK = 65_536
"""Steps whose turns are drawn at once."""


@dataclass(frozen=True)
class Turn:
    """What a step trains: a corpus, by its number; how many steps before it read that one; and the objectives."""

    corpus: int
    visit: int
    active: tuple[Objective, ...]


class Turns:
    """The turn of every step. Safe to share among threads."""

    def __init__(self, config: PretrainConfig) -> None:
        self._seed = config.seed
        self._choices = _choices(config)
        self._count = max(1, len(config.corpora))
        odds = np.cumsum([share for _, _, share in self._choices])
        self._edges = odds / odds[-1]
        self._corpora = np.array([corpus for corpus, _, _ in self._choices])
        self._blocks: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
        """For each block its steps' choices (_BLOCK,), and how many steps before it read each corpus (C,)."""

    def __call__(self, step: int) -> Turn:
        block, place = divmod(step, _BLOCK)
        choices, before = self._block(block)
        corpus, active, _ = self._choices[choices[place]]
        return Turn(corpus, int(before[corpus] + (self._corpora[choices[:place]] == corpus).sum()), active)

    def visits(self, steps: int) -> list[int]:
        """How many of the first `steps` steps read each corpus."""
        block, place = divmod(steps, _BLOCK)
        choices, before = self._block(block)
        counts: list[int] = (before + self._counts(choices[:place])).tolist()
        return counts

    def corpus_shares(self) -> list[float]:
        """Share of the steps that each corpus has on average."""
        sums = [sum(share for corpus, _, share in self._choices if corpus == one) for one in range(self._count)]
        return [share / sum(sums) for share in sums]

    def _block(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        blocks = self._blocks
        while len(blocks) <= number:
            before = blocks[-1][1] + self._counts(blocks[-1][0]) if blocks else np.zeros(self._count, np.int64)
            # As a new list: another thread may do the same.
            blocks = [*blocks, (self._draw(len(blocks)), before)]
            self._blocks = blocks
        return blocks[number]

    def _draw(self, block: int) -> npt.NDArray[np.int64]:
        steps = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
        turns = np.stack([np.zeros_like(steps), steps], axis=1)
        draws = draw_uniforms(self._seed, "objective", turns, 1)[:, 0]
        return np.searchsorted(self._edges, draws, side="right")

    def _counts(self, choices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.bincount(self._corpora[choices], minlength=self._count)


def _choices(config: PretrainConfig) -> list[tuple[int, tuple[Objective, ...], float]]:
    """What a step can have: a corpus, the objectives, and their share of the steps."""
    objectives = chosen_objectives(config)
    found: list[tuple[int, tuple[Objective, ...], float]] = []
    for corpus, name in enumerate(corpus_names(config) or ("",)):
        share = config.corpora.get(name, 1.0)
        if config.combine == "sum":
            assert not isinstance(share, dict)
            found.append((corpus, objectives, share))
            continue
        for one in objectives:
            own = share.get(one.name, 0.0) if isinstance(share, dict) else share * config.objectives[one.name]
            found.append((corpus, (one,), own))
    return found


def corpus_names(config: PretrainConfig) -> tuple[str, ...]:
    """The corpora in the order of their numbers, which does not depend on how a config was written."""
    return tuple(sorted(config.corpora))


def loss_names(config: PretrainConfig) -> tuple[str, ...]:
    """Names of the losses: of the objectives, on each corpus where there are several."""
    corpora = corpus_names(config)
    return tuple(f"{name}/{one}" for name in corpora for one in config.chosen) if corpora else config.chosen
