"""Score every image of a split with every caption, block by block, so that a kill costs one block."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.data.batch import Regions
from model.data.captions import Captions
from model.data.feed import prefetch
from model.data.store import FeatureStore
from model.data.tokenizer import TokenTable
from model.downstream.retrieval.alike import first_alike, image_digests
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.config import Shortlist as ShortlistConfig
from model.downstream.retrieval.forecast import forecast
from model.downstream.retrieval.pairs import PairScorer, Tokens
from model.downstream.retrieval.scores import (
    FIRST_SCORES,
    PLAN,
    Floats,
    Index,
    Plan,
    Scores,
    begin_scores,
    missing_blocks,
    read_plan,
    write_block,
)
from model.downstream.retrieval.shortlist import Shortlist
from model.errors import InputError
from model.families.model import VisionLanguageModel
from model.progress import Progress, report
from model.publish import Lock
from model.training.processes import Processes

_HASHED_AT_ONCE = 64
_MOST_IMAGES = 512
"""Images of a block at most, however few captions there are: their features and states are held together."""


_REPORT_SECONDS = 2.0


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The images of a split that have a caption, in the order of the feature store, and its captions."""

    store: FeatureStore
    captions: Captions
    tokens: TokenTable

    @cached_property
    def images(self) -> npt.NDArray[np.int64]:
        """Rows (images,) in the feature store."""
        return self.captions.images

    @cached_property
    def texts(self) -> list[Tokens]:
        return [self.tokens[number] for number in range(len(self.tokens))]

    def plan(self, config: ScoringConfig, processes: int = 1, identity: dict[str, Any] | None = None) -> Plan:
        """Plan blocks of `config.block_pairs` pairs, and at least one for each process."""
        images, captions = len(self.images), len(self.texts)
        rows = max(1, min(config.block_pairs // captions, _MOST_IMAGES, -(-images // processes)))
        return Plan(images=images, captions=captions, rows=rows, identity=identity or {})

    def regions(self, rows: range, max_regions: int) -> Regions:
        """Regions of consecutive images."""
        return self.store.read(self.images[rows.start : rows.stop], max_regions)

    def first_alike(self, max_regions: int) -> Index:
        """For each image (images,), the first one with equal regions. Reads the features once."""
        images = len(self.images)
        rows = [range(start, min(start + _HASHED_AT_ONCE, images)) for start in range(0, images, _HASHED_AT_ONCE)]
        digests = prefetch(lambda part: image_digests(self.regions(rows[part], max_regions)), 0, len(rows))
        return first_alike(chain.from_iterable(digests))


def score_split(
    model: VisionLanguageModel,
    store: FeatureStore,
    captions: Captions,
    tokens: TokenTable,
    config: ScoringConfig,
    device: torch.device,
) -> Floats:
    """Score all pairs exactly and in memory: matching logits (images, captions) f32.

    Images are those that have a caption, in the order of the feature store (`captions.images`).
    """
    split, scorer = Split(store, captions, tokens), PairScorer(model, config, device)
    plan = split.plan(config)
    rows = [plan.rows_of(block) for block in range(plan.blocks)]
    regions = prefetch(lambda block: split.regions(rows[block], model.bert.max_regions), 0, plan.blocks, ahead=1)
    scores, digests = [], []
    for some in regions:
        scores.append(scorer.score(some, split.texts))
        digests += image_digests(some)
    return np.concatenate(scores)[first_alike(digests)]


@contextmanager
def alone_in(folder: Path, processes: Processes) -> Iterator[None]:
    """Wait for other processes that score into this folder, and hold its lock."""
    with Lock(folder / "lock") as lock:
        if processes.is_first and not lock.try_hold():
            _log.info("%s is being scored by another process; waiting for it", folder)
            lock.hold()
        yield


class Blocks:
    """Makes the missing blocks of a matrix, shared among the processes."""

    def __init__(self, split: Split, scorer: PairScorer, processes: Processes, config: ScoringConfig) -> None:
        self._split, self._scorer, self._processes, self._config = split, scorer, processes, config

    def score(
        self,
        folder: Path,
        plan: Plan,
        max_regions: int,
        stage: str,
        wanted: Callable[[int], npt.NDArray[np.bool_]] | None = None,
    ) -> Scores:
        """Score into a folder, and return when all blocks of all processes are there.

        Args:
            wanted: block number -> (rows, captions), the pairs of it that are scored; None: all.

        Raises:
            InputError: the folder holds other scores; a score is not finite.
        """
        split, processes = self._split, self._processes
        if processes.is_first:
            keys = [split.store.keys[row] for row in split.images.tolist()]
            alike = partial(split.first_alike, max_regions)
            begin_scores(folder, plan, keys, split.captions.ids[:], split.captions.image_of, alike)
        processes.meet()
        plan = read_plan(folder)
        missing = missing_blocks(folder, plan)
        # All have seen the same before any of them adds a block.
        processes.meet()
        mine = missing[processes.rank :: processes.count]
        meter = None
        if processes.is_first:
            if wanted is None:
                self._foretell(stage, plan, missing, max_regions)
            meter = _Meter(stage, folder, plan)
        rows = [plan.rows_of(block) for block in mine]
        regions = prefetch(lambda number: split.regions(rows[number], max_regions), 0, len(mine), ahead=1)
        for block, some in zip(mine, regions, strict=True):
            pairs = None if wanted is None else wanted(block)
            scores = self._scorer.score(some, split.texts, pairs, meter.add if meter else lambda pairs: None)
            self._check(scores, plan.rows_of(block))
            write_block(folder, plan, block, scores)
            if meter:
                meter.block_is_done()
        processes.meet()
        return Scores(folder)

    def _foretell(self, stage: str, plan: Plan, missing: list[int], max_regions: int) -> None:
        """Report how long it will take, if it is long."""
        split, total = self._split, plan.images * plan.captions
        left = sum(len(plan.rows_of(block)) for block in missing) * plan.captions
        found = forecast(
            self._scorer,
            split.texts,
            plan.images,
            lambda rows: split.store.read(split.images[rows], max_regions),
            left,
            self._processes.count,
            self._config,
        )
        if found is not None:
            rate, note = found
            _log.info("%s: %s", stage, note)
            report(Progress(stage=stage, done=total - left, total=total, unit="pairs", per_second=rate, note=note))

    def _check(self, scores: Floats, rows: range) -> None:
        bad = np.argwhere(np.isnan(scores) | np.isposinf(scores))
        if len(bad):
            image, caption = bad[0].tolist()
            raise InputError(
                f"the score of image {self._split.store.keys[int(self._split.images[rows[image]])]} with caption "
                f"{self._split.captions.ids[caption]} is {scores[image, caption]}: the checkpoint or its features are "
                "broken; train or extract again"
            )


def score_shortlist(
    blocks: Blocks, folder: Path, plan: Plan, shortlist: ShortlistConfig, identity: dict[str, Any], max_regions: int
) -> None:
    """Score all pairs with few regions, then the best of them with all regions. Both passes resume."""
    if (folder / PLAN).exists():
        plan = plan.model_copy(update={"rows": read_plan(folder).rows})
        if not missing_blocks(folder, plan):
            return
    few = min(shortlist.regions, max_regions)
    first_pass = plan.model_copy(update={"identity": identity | {"regions": few}})
    first = blocks.score(folder / FIRST_SCORES, first_pass, few, "first pass")
    best = Shortlist(first, shortlist.size)
    # Cut as the first pass is, so that a block of one belongs to a block of the other.
    plan = plan.model_copy(update={"rows": first.plan.rows})
    blocks.score(folder, plan, max_regions, "score", lambda block: best.of(first.block(block)))


class _Meter:
    """Reports the progress of all processes: blocks on the disk, and the pairs of this process's block."""

    def __init__(self, stage: str, folder: Path, plan: Plan) -> None:
        self._stage, self._folder, self._plan = stage, folder, plan
        self._begun = self._reported = time.monotonic()
        self._at_first = self._num_done()
        self._in_block = 0

    def add(self, pairs: int) -> None:
        self._in_block += pairs
        if time.monotonic() - self._reported > _REPORT_SECONDS:
            self._report(self._num_done() + self._in_block)

    def block_is_done(self) -> None:
        self._in_block = 0
        if (done := self._num_done()) == self._plan.images * self._plan.captions:
            self._report(done)

    def _num_done(self) -> int:
        missing = missing_blocks(self._folder, self._plan)
        images = self._plan.images - sum(len(self._plan.rows_of(block)) for block in missing)
        return images * self._plan.captions

    def _report(self, done: int) -> None:
        self._reported = time.monotonic()
        rate = (done - self._at_first) / max(self._reported - self._begun, 1e-9)
        total = self._plan.images * self._plan.captions
        report(Progress(stage=self._stage, done=min(done, total), total=total, unit="pairs", per_second=rate))
