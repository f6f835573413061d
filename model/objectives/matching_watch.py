"""Watch whether matching learns anything: its share of right answers against a guess's. Imports no torch.

Wrong pairs are as many as right ones (`model.objectives.pairing`), so whoever answers without looking at the pair is
right half of the time: of N answers N/2, with a standard deviation of sqrt(N)/2 at most. On small data the matching
head can stay there for thousands of steps while the other losses fall; retrieval then ranks by nothing.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping

from model.objectives.config import MATCHING, PretrainConfig
from model.progress import STALLED

LEAST_SEEN = 20_000
"""Pairs before the first judgement; it also waits for the warm-up's end. The demo leaves the guess at 16,000."""
RECENT = 10_000
"""Pairs that are judged, the newest; more where a line of metrics covers more."""
DEVIATIONS = 3.0
"""So far above half the share of right answers must be. A guess gets there once in 700 judgements."""
_PAIRED, _WEIGHT, _RATE = "paired", 10.0, 2e-4

log = logging.getLogger(__name__)


class MatchingWatch:
    """Watches a pretraining run's metrics, and warns once."""

    def __init__(self, config: PretrainConfig, captions_a_step: float | None = None) -> None:
        """
        Args:
            captions_a_step: None: batch_size.
        """
        self._config = config
        self._objective = next((name for name in MATCHING if config.objectives.get(name)), None)
        self._first_step = config.optim.warmup_share * config.steps
        captions = config.batch_size if captions_a_step is None else captions_a_step
        self._pairs_a_step = captions * (2 if config.matching == "paired" else 1)
        self._recent: deque[tuple[float, float]] = deque()
        """(answers, right ones) of the newest lines."""
        self._warned = False

    def __call__(self, step: int, means: Mapping[str, float], targets: Mapping[str, float]) -> dict[str, float]:
        """What to add to the line of a step; nothing where it is too early, or matching is not learnt.

        Args:
            means: of the line; the accuracy of vlm or itm is looked at.
            targets: how many answers it is of, as `vlm` or `itm`.
        """
        if self._objective is None or not (count := targets.get(self._objective, 0.0)):
            return {}
        self._recent.append((count, count * means[f"{self._objective}_accuracy"]))
        while len(self._recent) > 1 and sum(n for n, _ in self._recent) - self._recent[0][0] >= RECENT:
            self._recent.popleft()
        answers, right = (sum(column) for column in zip(*self._recent, strict=True))
        seen = round(step * self._pairs_a_step)
        if step < self._first_step or seen < LEAST_SEEN or answers < RECENT:
            return {}
        stalled = is_guess(right, answers)
        if stalled and not self._warned:
            self._warned = True
            config = self._config
            log.warning(
                "pretrain step %d: matching is no better than a guess (%.1f%% of the last %d pairs are right) after %d "
                "pairs; %s",
                step,
                100 * right / answers,
                round(answers),
                seen,
                remedies(
                    config.matching, self._objective, config.objectives[self._objective], config.optim.learning_rate
                ),
            )
        return {STALLED: float(stalled)}


def is_guess(right: float, answers: float) -> bool:
    """Whether so many right answers may come from guessing."""
    return right <= answers / 2 + DEVIATIONS * math.sqrt(answers) / 2


def remedies(matching: str, objective: str, weight: float, learning_rate: float) -> str:
    """Settings that have helped on small data and are not in use, for people."""
    options = [
        option
        for option, is_set in (
            ("pretrain.matching=paired", matching == _PAIRED),
            (f"pretrain.objectives.{objective}=10", weight >= _WEIGHT),
            ("pretrain.optim.learning_rate=2e-4", learning_rate >= _RATE),
        )
        if not is_set
    ]
    if not options:
        return "more steps or more data may help (docs/own-data.md)"
    listed = " and ".join([", ".join(options[:-1]), options[-1]] if options[1:] else options)
    return f"on small data {listed} {'help' if options[1:] else 'helps'} (docs/own-data.md)"
