"""Scores of every image with every caption: python -m model.scoring --config job.json (a `ScoreJob`).

Exact: every pair goes through the whole model (`pairs.py`), unless the job asks for a shortlist. The matrix is made and
kept block by block (`scores.py`): a killed process costs the block that it was at, several processes share the blocks,
and memory holds a block, not the matrix.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
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

from model.alike import first_alike, image_digests
from model.checkpoint import load_model, weights_sha256
from model.command import run_job
from model.config import ScoringConfig
from model.config import Shortlist as ShortlistConfig
from model.data.batch import Regions
from model.data.captions import Captions, load_captions
from model.data.feed import prefetch
from model.data.store import FeatureStore, open_store
from model.data.tokenizer import TokenTable, load_tokens
from model.encoder import UnicoderVL
from model.errors import InputError
from model.fit import check_features
from model.forecast import forecast
from model.identity import data_identity
from model.jobs import ScoreJob
from model.metrics import measure
from model.pairs import PairScorer, Tokens
from model.precision import Asked, Taken, agree_on_precision
from model.processes import Processes, join_processes
from model.progress import Progress, report
from model.publish import Lock, write_whole
from model.scores import (
    FIRST_SCORES,
    METRICS,
    PLAN,
    SCORES_FORMAT,
    Floats,
    Index,
    Plan,
    Scores,
    begin_scores,
    missing_blocks,
    read_plan,
    write_block,
)
from model.shortlist import Shortlist
from model.training import set_up_torch

_MOST_IMAGES = 512
"""Images of a block at most, however few captions there are: their features and states are held together."""
_HASHED_AT_ONCE = 64
_PRECISIONS: tuple[Asked, ...] = ("auto", "fp32", "bf16")
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
        """(images,) their rows in the feature store."""
        return self.captions.images

    @cached_property
    def texts(self) -> list[Tokens]:
        return [self.tokens[number] for number in range(len(self.tokens))]

    def plan(self, config: ScoringConfig, processes: int = 1, identity: dict[str, Any] | None = None) -> Plan:
        """Blocks of `config.block_pairs` pairs, and at least one for each process."""
        images, captions = len(self.images), len(self.texts)
        rows = max(1, min(config.block_pairs // captions, _MOST_IMAGES, -(-images // processes)))
        return Plan(images=images, captions=captions, rows=rows, identity=identity or {})

    def regions(self, rows: range, max_regions: int) -> Regions:
        """Of consecutive images."""
        return self.store.read(self.images[rows.start : rows.stop], max_regions)

    def first_alike(self, max_regions: int) -> Index:
        """(images,) the first image of which so many regions read as each one's do. Reads the features once."""
        images = len(self.images)
        rows = [range(start, min(start + _HASHED_AT_ONCE, images)) for start in range(0, images, _HASHED_AT_ONCE)]
        digests = prefetch(lambda part: image_digests(self.regions(rows[part], max_regions)), 0, len(rows))
        return first_alike(chain.from_iterable(digests))


def score_split(
    model: UnicoderVL,
    store: FeatureStore,
    captions: Captions,
    tokens: TokenTable,
    config: ScoringConfig,
    device: torch.device,
) -> Floats:
    """Matching logits of all pairs, exact and in memory: (images, captions) f32.

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


def run_scoring(job: ScoreJob) -> int:
    """Score what is not scored yet, and write the metrics. Several processes may run this together (torchrun)."""
    config, folder = job.scoring, Path(job.output_path)
    set_up_torch(config.num_threads)
    with join_processes(config.device) as processes:
        model, vocabulary = load_model(job.checkpoint_path)
        store = open_store(job.data)
        check_features(model, store, job.checkpoint_path)
        captions = load_captions(job.data, store)
        split = Split(store, captions, load_tokens(vocabulary, captions, model.config.max_text_tokens))
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, processes):
            precision = _precision(folder, config, processes, model.config.hidden_size)
            identity = {
                "weights": weights_sha256(Path(job.checkpoint_path)),
                "vocabulary": vocabulary.digest,
                "data": data_identity(store, captions),
                "precision": precision,
            }
            config = config.model_copy(update={"precision": precision})
            scorer = PairScorer(model.to(processes.device), config, processes.device)
            blocks = _Blocks(split, scorer, processes, config)
            if config.shortlist is None:
                plan = split.plan(config, processes.count, identity)
                blocks.score(folder, plan, model.bert.max_regions, "score")
            else:
                chosen = {"shortlist": config.shortlist.model_dump(mode="json")}
                plan = split.plan(config, processes.count, identity | chosen)
                _score_shortlist(blocks, folder, plan, config.shortlist, identity, model.bert.max_regions)
            if processes.is_first:
                _write_metrics(folder, job)
    return 0


@contextmanager
def _alone(folder: Path, processes: Processes) -> Iterator[None]:
    """Wait while somebody else scores into this folder."""
    with Lock(folder / "lock") as lock:
        if processes.is_first and not lock.try_hold():
            _log.info("%s is being scored by another process; waiting for it", folder)
            lock.hold()
        yield


def _precision(folder: Path, config: ScoringConfig, processes: Processes, hidden_size: int) -> Taken:
    """What is asked for; of auto, that of the scores which the folder holds, or is begun with, else the devices'."""
    standing = config.precision
    if processes.is_first and standing == "auto":
        begun = [some for some in (folder, folder / FIRST_SCORES) if (some / PLAN).exists()]
        standing = read_plan(begun[0]).identity.get("precision", "fp32") if begun else "auto"
    # The others must not look: by then the first one may have begun.
    asked: Asked = _PRECISIONS[int(processes.add(torch.tensor(_PRECISIONS.index(standing) * processes.is_first)))]
    taken = agree_on_precision(asked, processes, hidden_size)
    if processes.is_first:
        _log.info("scoring in %s%s", taken, "" if config.precision == taken else ", for precision=auto")
    return taken


class _Blocks:
    """Makes the blocks of a matrix that are not there yet, shared among the processes."""

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
        """Tell how long it will take, if it is long."""
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


def _score_shortlist(
    blocks: _Blocks, folder: Path, plan: Plan, shortlist: ShortlistConfig, identity: dict[str, Any], max_regions: int
) -> None:
    """All pairs with few regions, then the best of them with all regions. Both passes resume."""
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


def _write_metrics(folder: Path, job: ScoreJob) -> None:
    scores, approximate = Scores(folder), None
    if (shortlist := job.scoring.shortlist) is not None:
        approximate = (
            f"exact for the best {shortlist.size} of a first pass over {shortlist.regions} regions, of each image and "
            "of each caption; the rest counts as not found"
        )
    measured = measure(scores, scores.caption_image, job.scoring.protocols, approximate=approximate)
    main, *also = [metrics.model_dump(mode="json") for metrics in measured]
    taken = scores.plan.identity["precision"]
    content = {"format": SCORES_FORMAT, "data": job.data.name, "precision": taken, **main, "also": also}
    write_whole(folder / METRICS, json.dumps(content, indent=2) + "\n")
    if (folder / FIRST_SCORES).exists():
        shutil.rmtree(folder / FIRST_SCORES)


class _Meter:
    """Reports how far all processes are: blocks are counted on the disk, and of this process's block the pairs."""

    def __init__(self, stage: str, folder: Path, plan: Plan) -> None:
        self._stage, self._folder, self._plan = stage, folder, plan
        self._begun = self._reported = time.monotonic()
        self._at_first = self._standing()
        self._in_block = 0

    def add(self, pairs: int) -> None:
        self._in_block += pairs
        if time.monotonic() - self._reported > _REPORT_SECONDS:
            self._report(self._standing() + self._in_block)

    def block_is_done(self) -> None:
        self._in_block = 0
        if (done := self._standing()) == self._plan.images * self._plan.captions:
            self._report(done)

    def _standing(self) -> int:
        missing = missing_blocks(self._folder, self._plan)
        images = self._plan.images - sum(len(self._plan.rows_of(block)) for block in missing)
        return images * self._plan.captions

    def _report(self, done: int) -> None:
        self._reported = time.monotonic()
        rate = (done - self._at_first) / max(self._reported - self._begun, 1e-9)
        total = self._plan.images * self._plan.captions
        report(Progress(stage=self._stage, done=min(done, total), total=total, unit="pairs", per_second=rate))


if __name__ == "__main__":
    sys.exit(run_job("model.scoring", ScoreJob, run_scoring))
