"""Pretraining: python -m model.pretrain --config job.json (a `PretrainJob`)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from model.command import open_data, run_job
from model.data.tokenizer import Vocabulary, load_vocabulary, tokenize
from model.data.word_pieces import warn_of_case
from model.downstream.retrieval.held_out import RECALL_VALUES, first_images, held_out_recall
from model.families.build import build_model, data_sizes
from model.families.model import VisionLanguageModel
from model.jobs import PretrainJob
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig
from model.objectives.held_out import HeldOutLosses, loss_values
from model.objectives.matching_watch import MatchingWatch
from model.objectives.objective import chosen_objectives, objective_heads
from model.objectives.sum import pretraining_losses
from model.training.identity import data_identity
from model.training.loop import STOPPED, Training, Validation, set_up_torch, train
from model.training.precision import with_precision
from model.training.processes import join_processes


def run_pretraining(job: PretrainJob) -> int:
    """Train, or resume training, in the job's run folder. Returns the exit code: 0 done, 143 stopped by SIGTERM."""
    set_up_torch(job.pretrain.num_threads)
    vocabulary = load_vocabulary(job.vocabulary_path, job.word_rules)
    warn_of_case(vocabulary.words)
    job = job.model_copy(update={"word_rules": vocabulary.words.rules})
    store, captions, tokens = open_data(job.train, vocabulary, job.encoder)
    with join_processes(job.pretrain.device) as processes:
        config = with_precision(job.pretrain, processes, job.encoder)
        heads = objective_heads(config, data_sizes(store, vocabulary))
        task = Training(
            stage="pretrain",
            job=job,
            run=Path(job.run_path),
            config=config,
            encoder=job.encoder,
            store=store,
            identity={
                "pretrain": job.pretrain.identity(),
                "encoder": job.encoder.identity(),
                "train": data_identity(store, captions),
                "vocabulary": vocabulary.digest,
            },
            heads=heads,
            reads_cls=any(one.reads_cls for one in chosen_objectives(config)),
            fresh_model=lambda: build_model(job.encoder, store, vocabulary, config.seed, heads),
            make_batch=PretrainBatches(store, captions, tokens, vocabulary, job.encoder.max_regions, config),
            losses=lambda model, batch, step: pretraining_losses(model, batch, config),
            vocabulary=vocabulary,
            validation=_validation(job, config, vocabulary, processes.device),
            watch=MatchingWatch(config),
        )
        done = train(task, processes)
    return 0 if done else STOPPED


def _validation(
    job: PretrainJob, config: PretrainConfig, vocabulary: Vocabulary, device: torch.device
) -> Validation | None:
    """Losses over fixed held-out pairs and recall over fixed held-out images, if the job asks for them."""
    if job.validation is None or config.validation_steps is None:
        return None
    store, captions, tokens = open_data(job.validation, vocabulary, job.encoder)
    losses = HeldOutLosses(store, captions, tokens, vocabulary, job.encoder.max_regions, config)
    # Without a matching head there is nothing to rank by.
    few = first_images(captions, config.quick_recall_images if config.learns_matching else 0)
    few_tokens = tokenize(vocabulary, few.texts, job.encoder.max_text_tokens)

    def measure(model: VisionLanguageModel) -> dict[str, float]:
        values = losses(model, device)
        if few.texts:
            values |= held_out_recall(model, store, few, few_tokens, job.scoring, device)
        return values

    return Validation(loss_values(config) + (RECALL_VALUES if few.texts else ()), measure)


if __name__ == "__main__":
    sys.exit(run_job("model.pretrain", PretrainJob, run_pretraining))
