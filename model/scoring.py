"""Score every image with every caption: python -m model.scoring --config job.json (a `ScoreJob`).

Exact: every pair goes through the whole model (`pairs.py`), unless the job asks for a shortlist. The matrix is made and
kept block by block (`scores.py`): a killed process costs the block that it was at, several processes share the blocks,
and memory holds a block, not the matrix.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path

import torch

from model.command import run_job
from model.data.captions import load_captions
from model.data.store import open_store
from model.data.tokenizer import load_tokens
from model.downstream.retrieval.blocks import Blocks, Split, alone_in, score_shortlist
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.metrics import measure
from model.downstream.retrieval.pairs import PairScorer
from model.downstream.retrieval.scores import (
    FIRST_SCORES,
    METRICS,
    PLAN,
    SCORES_FORMAT,
    Scores,
    read_plan,
)
from model.families.fit import check_features, check_matching
from model.jobs import ScoreJob
from model.publish import write_whole
from model.training.checkpoint import load_model, weights_sha256
from model.training.identity import data_identity
from model.training.loop import set_up_torch
from model.training.precision import Asked, Taken, agree_on_precision
from model.training.processes import Processes, join_processes

_log = logging.getLogger(__name__)
_PRECISIONS: tuple[Asked, ...] = ("auto", "fp32", "bf16")


def run_scoring(job: ScoreJob) -> int:
    """Score missing blocks, and write the metrics. Several processes may run this together (torchrun)."""
    config, folder = job.scoring, Path(job.output_path)
    set_up_torch(config.num_threads)
    with join_processes(config.device) as processes:
        model, vocabulary = load_model(job.checkpoint_path)
        store = open_store(job.data, model.config.adaptive_regions)
        check_features(model, store, job.checkpoint_path)
        check_matching(model, job.checkpoint_path)
        captions = load_captions(job.data, store)
        split = Split(store, captions, load_tokens(vocabulary, captions, model.config.max_text_tokens))
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder, processes):
            precision = _precision(folder, config, processes, model.config.hidden_size)
            identity = {
                "weights": weights_sha256(Path(job.checkpoint_path)),
                "vocabulary": vocabulary.digest,
                "data": data_identity(store, captions),
                "precision": precision,
            }
            config = config.model_copy(update={"precision": precision})
            scorer = PairScorer(model.to(processes.device), config, processes.device)
            blocks = Blocks(split, scorer, processes, config)
            if config.shortlist is None:
                plan = split.plan(config, processes.count, identity)
                blocks.score(folder, plan, model.bert.max_regions, "score")
            else:
                chosen = {"shortlist": config.shortlist.model_dump(mode="json")}
                plan = split.plan(config, processes.count, identity | chosen)
                score_shortlist(blocks, folder, plan, config.shortlist, identity, model.bert.max_regions)
            if processes.is_first:
                _write_metrics(folder, job)
    return 0


def _precision(folder: Path, config: ScoringConfig, processes: Processes, hidden_size: int) -> Taken:
    """The precision asked for; for auto, that of the folder's scores, finished or begun, else the devices'."""
    precision = config.precision
    if processes.is_first and precision == "auto":
        begun = [some for some in (folder, folder / FIRST_SCORES) if (some / PLAN).exists()]
        precision = read_plan(begun[0]).identity.get("precision", "fp32") if begun else "auto"
    # The others must not look: by then the first one may have begun.
    asked: Asked = _PRECISIONS[int(processes.add(torch.tensor(_PRECISIONS.index(precision) * processes.is_first)))]
    taken = agree_on_precision(asked, processes, hidden_size)
    if processes.is_first:
        _log.info("scoring in %s%s", taken, "" if config.precision == taken else ", for precision=auto")
    return taken


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


if __name__ == "__main__":
    sys.exit(run_job("model.scoring", ScoreJob, run_scoring))
