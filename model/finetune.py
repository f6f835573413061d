"""Retrieval finetuning: python -m model.finetune --config job.json (a `FinetuneJob`)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from model.command import open_data, run_job
from model.data.store import FeatureStore
from model.data.tokenizer import Vocabulary, load_vocabulary, tokenize
from model.data.word_pieces import warn_of_case
from model.downstream.retrieval.batches import RetrievalBatches
from model.downstream.retrieval.held_out import RECALL_VALUES, first_images, held_out_recall
from model.downstream.retrieval.hinge import retrieval_losses
from model.errors import InputError
from model.families.build import build_model
from model.families.config import EncoderConfig
from model.families.fit import check_features, check_same_words
from model.families.heads import MATCHING
from model.families.model import VisionLanguageModel
from model.jobs import FinetuneJob
from model.training.checkpoint import load_model, weights_sha256
from model.training.identity import data_identity
from model.training.loop import STOPPED, Training, Validation, set_up_torch, train
from model.training.precision import with_precision
from model.training.processes import join_processes


def run_finetuning(job: FinetuneJob) -> int:
    """Train, or resume training, in the job's run folder. Returns the exit code: 0 done, 143 stopped by SIGTERM."""
    set_up_torch(job.finetune.num_threads)
    vocabulary = load_vocabulary(job.vocabulary_path, job.word_rules)
    warn_of_case(vocabulary.words)
    job = job.model_copy(update={"word_rules": vocabulary.words.rules})
    store, captions, tokens = open_data(job.train, vocabulary, job.encoder, job.finetune.long_texts)

    def fresh_model() -> VisionLanguageModel:
        if start is None:
            return build_model(job.encoder, store, vocabulary, job.finetune.seed, MATCHING)
        return _pretrained(start, job.encoder, store, vocabulary).with_heads(MATCHING, job.finetune.seed)

    start = _start(job)
    with join_processes(job.finetune.device) as processes:
        config = with_precision(job.finetune, processes, job.encoder)
        task = Training(
            stage="task-specific" if start is None else "finetune",
            job=job,
            run=Path(job.run_path),
            config=config,
            encoder=job.encoder,
            store=store,
            dropped_captions=captions.dropped,
            identity={
                "finetune": job.finetune.identity(),
                "encoder": job.encoder.identity(),
                "train": data_identity(store, captions),
                "vocabulary": vocabulary.digest,
                "start": None if start is None else weights_sha256(start),
            },
            heads=MATCHING,
            fresh_model=fresh_model,
            make_batch=RetrievalBatches(store, captions, tokens, vocabulary, job.encoder.max_regions, config),
            losses=lambda model, batch, step: retrieval_losses(model, batch, config, step),
            vocabulary=vocabulary,
            validation=_validation(job, vocabulary, processes.device),
        )
        done = train(task, processes)
    return 0 if done else STOPPED


def _start(job: FinetuneJob) -> Path | None:
    """The checkpoint that finetuning starts from; None from scratch."""
    if job.finetune.start == "scratch":
        return None
    if job.checkpoint_path is None:
        raise InputError("finetune.start is 'pretrained' but checkpoint_path is not set; pretrain first")
    return Path(job.checkpoint_path)


def _validation(job: FinetuneJob, vocabulary: Vocabulary, device: torch.device) -> Validation | None:
    """Recall over the validation split, or over its first images, if the job asks for it."""
    if job.validation is None or job.finetune.validation_steps is None:
        return None
    store, captions, tokens = open_data(job.validation, vocabulary, job.encoder)
    count = job.finetune.validation_images
    if count is not None and count < len(captions.images):
        captions = first_images(captions, count)
        tokens = tokenize(vocabulary, captions.texts, job.encoder.max_text_tokens)
    return Validation(RECALL_VALUES, lambda model: held_out_recall(model, store, captions, tokens, job.scoring, device))


def _pretrained(path: Path, encoder: EncoderConfig, store: FeatureStore, vocabulary: Vocabulary) -> VisionLanguageModel:
    model, own = load_model(path, encoder)
    check_features(model, store, str(path))
    check_same_words(own, vocabulary, str(path))
    return model


if __name__ == "__main__":
    sys.exit(run_job("model.finetune", FinetuneJob, run_finetuning))
