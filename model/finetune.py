"""Finetuning for a task: python -m model.finetune --config job.json (a `FinetuneJob`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from model.command import run_job
from model.data.store import FeatureStore
from model.data.tokenizer import Vocabulary, load_vocabulary
from model.data.word_pieces import warn_of_case
from model.downstream.task import Task, trained_task
from model.errors import InputError
from model.families.build import build_model
from model.families.config import EncoderConfig
from model.families.fit import check_features, check_same_words
from model.families.model import VisionLanguageModel
from model.jobs import FinetuneJob
from model.training.checkpoint import load_model, weights_sha256
from model.training.loop import STOPPED, Training, Validation, set_up_torch, train
from model.training.precision import with_precision
from model.training.processes import join_processes


def run_finetuning(job: FinetuneJob) -> int:
    """Train, or resume training, in the job's run folder. Returns the exit code: 0 done, 143 stopped by SIGTERM."""
    set_up_torch(job.finetune.num_threads)
    vocabulary = load_vocabulary(job.vocabulary_path, job.word_rules)
    warn_of_case(vocabulary.words)
    job = job.model_copy(update={"word_rules": vocabulary.words.rules})
    task = trained_task(job.task)
    data = task.open(job.train, vocabulary, job.encoder, job.finetune.long_texts)
    store, heads = data.store, task.heads(data)

    def fresh_model() -> VisionLanguageModel:
        if start is None:
            return build_model(job.encoder, store, vocabulary, job.finetune.seed, heads)
        return _pretrained(start, job.encoder, store, vocabulary).with_heads(heads, job.finetune.seed)

    start = _start(job)
    with join_processes(job.finetune.device) as processes:
        config = with_precision(job.finetune, processes, job.encoder)
        training = Training(
            stage="task-specific" if start is None else "finetune",
            job=job,
            run=Path(job.run_path),
            config=config,
            encoder=job.encoder,
            store=store,
            dropped_captions=data.dropped,
            identity={
                "finetune": job.finetune.identity(),
                "encoder": job.encoder.identity(),
                "train": data.identity,
                "vocabulary": vocabulary.digest,
                "start": None if start is None else weights_sha256(start),
                **job.task_identity(),
            },
            heads=heads,
            fresh_model=fresh_model,
            make_batch=task.batches(data, job.encoder, config),
            losses=lambda model, batch, step: task.losses(model, batch, config, step),
            vocabulary=vocabulary,
            validation=_validation(task, job, vocabulary, processes.device),
        )
        done = train(training, processes)
    return 0 if done else STOPPED


def _start(job: FinetuneJob) -> Path | None:
    """The checkpoint that finetuning starts from; None from scratch."""
    if job.finetune.start == "scratch":
        return None
    if job.checkpoint_path is None:
        raise InputError("finetune.start is 'pretrained' but checkpoint_path is not set; pretrain first")
    return Path(job.checkpoint_path)


def _validation(
    task: Task[Any, Any, Any], job: FinetuneJob, vocabulary: Vocabulary, device: torch.device
) -> Validation | None:
    """Held-out measures of the task, if the job asks for them."""
    if job.validation is None or job.finetune.validation_steps is None:
        return None
    return task.validation(task.open(job.validation, vocabulary, job.encoder, "cut"), job, device)


def _pretrained(path: Path, encoder: EncoderConfig, store: FeatureStore, vocabulary: Vocabulary) -> VisionLanguageModel:
    model, own = load_model(path, encoder)
    check_features(model, store, str(path))
    check_same_words(own, vocabulary, str(path))
    return model


if __name__ == "__main__":
    sys.exit(run_job("model.finetune", FinetuneJob, run_finetuning))
