"""Starts a training run, resumes it, or finds it done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from model.config import ExampleSource, FeatureSource, LoopConfig
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.tasks import RETRIEVAL
from model.jobs import FinetuneJob, PretrainJob
from model.progress import Progress
from tasks.errors import StageError
from tasks.records import CheckpointRef
from tasks.storage.local_copy import keep_for_reading, local_checkpoint, local_copy, with_local_captions
from tasks.storage.locks import alone
from tasks.storage.mirror import RUN, mirrored
from tasks.storage.paths import run_folder
from tasks.storage.root import Root
from tasks.training.data import DataSpec, resolve_data, resolve_examples
from tasks.training.run_name import find_start, finished_run, run_name
from tasks.training.specs import FinetuneSpec, PretrainSpec, TrainSpec
from tasks.training.text import resolve_text
from tasks.workers.gpus import visible_gpus
from tasks.workers.launch import run_module
from tasks.workers.machines import NodesConfig
from tasks.workers.nodes import wait_for_first_node, wait_for_result

OnProgress = Callable[[Progress], None]
Job = PretrainJob | FinetuneJob


def train(root: Root, spec: TrainSpec, on_progress: OnProgress, nodes: NodesConfig | None = None) -> CheckpointRef:
    """Train a run to its end, or find it done. Killed, it resumes from its newest checkpoint next time.

    Args:
        root: where everything lies.
        spec: what the run is.
        on_progress: called for every report.
        nodes: the machines that train it together, each by a call of its own; None: this one alone.

    Raises:
        UserError: an input is missing or unfit; the pretraining run that it starts from is not complete.
        StageError: training failed, and the message names its log; or another process trains this run just now.
    """
    run = run_name(root, spec)

    def result() -> CheckpointRef | None:
        return finished_run(root, run, spec.stage)

    node = 0 if nodes is None else nodes.node_rank
    # What the first node has put on the root by then is what all of them go on from.
    done = wait_for_first_node(nodes, result) if nodes is not None and node else result()
    if done is not None:
        return done.model_copy(update={"skipped": True})
    # Machines that train together write one run by the first of them.
    with nullcontext() if node else alone(root, run, f"training {run}"):
        return _train_alone(root, run, spec, on_progress, nodes)


def _job(root: Root, spec: TrainSpec, folder: Path) -> Job:
    shared = {
        "run_path": str(folder),
        "train": _local_source(root, spec, spec.data),
        "validation": _validation_source(root, spec),
        "vocabulary_path": spec.vocabulary_path,
        "encoder": spec.encoder,
        "scoring": spec.scoring,
    }
    if isinstance(spec, PretrainSpec):
        also = tuple(_local_source(root, spec, data) for data in spec.also)
        text = None if spec.text is None else resolve_text(root, spec.text).source
        return PretrainJob.model_validate(shared | {"pretrain": spec.pretrain, "also": also, "text": text})
    start = find_start(root, spec)
    path = None if start is None else local_checkpoint(root, start)
    return FinetuneJob.model_validate(shared | {"task": spec.task, "finetune": spec.finetune, "checkpoint_path": path})


def _local_source(root: Root, spec: TrainSpec, data: DataSpec) -> FeatureSource | ExampleSource:
    found = resolve_data(root, data)
    if isinstance(spec, FinetuneSpec) and spec.task != RETRIEVAL:
        return resolve_examples(root, found, spec.task).source
    return with_local_captions(root, found.source)


def _validation_source(root: Root, spec: TrainSpec) -> FeatureSource | ExampleSource | None:
    """The held-out data, if the run uses any."""
    if spec.validation is None or spec.loop.validation_steps is None:
        return None
    return _local_source(root, spec, spec.validation)


def _train_alone(
    root: Root, run: str, spec: TrainSpec, on_progress: OnProgress, nodes: NodesConfig | None
) -> CheckpointRef:
    """Train a run under its lock, unless somebody else has just finished it."""

    def result() -> CheckpointRef | None:
        return finished_run(root, run, spec.stage)

    node = 0 if nodes is None else nodes.node_rank
    done = None if node else result()
    if done is not None:
        return done.model_copy(update={"skipped": True})
    # Under a local root the machines share the folder.
    module, own = f"model.{spec.stage.value}", f"node-{node}-" if node else ""
    with mirrored(root, run_folder(run), RUN, node) as folder:
        log_path = folder / f"{own}log.txt"
        # It may have come to its end before, and only not have been uploaded.
        if finished_run(local_copy(root), run, spec.stage) is None:
            processes = num_processes(spec.loop)
            run_module(
                module,
                _job(root, spec, folder),
                folder / f"{own}job.json",
                log_path,
                on_progress,
                num_processes=processes,
                nodes=nodes,
            )
    done = wait_for_result(nodes, root, result) if nodes is not None and node else result()
    if done is None:
        raise StageError(f"{module} ended well but left no final checkpoint in {folder}; see {log_path}")
    if not root.is_local:
        # The root has all of it. A copy of what may be removed there would bring it back.
        if not node:
            keep_for_reading(root, done, folder / "checkpoints" / Path(done.uri).name)
        shutil.rmtree(folder)
    return done


def num_processes(config: LoopConfig | ScoringConfig) -> int:
    """Number of processes of this machine that train, or score, together: a GPU each, unless the config says how
    many.
    """
    if config.num_processes is not None:
        return config.num_processes
    return max(1, visible_gpus()) if config.device in ("auto", "cuda") else 1
