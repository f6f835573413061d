"""Pretraining: python -m model.pretrain --config job.json (a `PretrainJob`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from model.command import open_data, run_job
from model.data.feed import Split, split_tokens
from model.data.tokenizer import Vocabulary, load_vocabulary, tokenize
from model.data.word_pieces import warn_of_case
from model.downstream.retrieval.held_out import RECALL_VALUES, first_images, held_out_recall
from model.errors import InputError
from model.families.build import build_model, data_sizes
from model.families.model import VisionLanguageModel
from model.jobs import PretrainJob
from model.objectives.config import PretrainConfig, TokenBatches
from model.objectives.corpora import CorporaBatches, Corpus, PretrainingWatch, check_alike
from model.objectives.held_out import HeldOutLosses, loss_values
from model.objectives.objective import chosen_objectives, objective_heads
from model.objectives.sum import pretraining_losses
from model.objectives.text_rows import MaskedText, open_text
from model.objectives.turns import corpus_names
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
    corpora, text = _open_corpora(job, vocabulary), _open_text(job, vocabulary)
    store = corpora[0].store
    with join_processes(job.pretrain.device) as processes:
        config = with_precision(job.pretrain, processes, job.encoder)
        heads = objective_heads(config, data_sizes(store, vocabulary))
        batches = CorporaBatches(
            corpora,
            vocabulary,
            job.encoder.max_regions,
            config,
            job.encoder.closing_marks + job.encoder.picture_regions,
            job.encoder.picture_regions,
            text,
        )
        task = Training(
            stage="pretrain",
            job=job,
            run=Path(job.run_path),
            config=config,
            encoder=job.encoder,
            store=batches,
            dropped_captions=sum(corpus.captions.dropped for corpus in corpora),
            identity={
                "pretrain": job.pretrain.identity(),
                "encoder": job.encoder.identity(),
                "train": _data_identity(corpora),
                "vocabulary": vocabulary.digest,
                **({} if text is None else {"text": text.digest}),
            },
            heads=heads,
            reads_cls=any(one.reads_cls for one in chosen_objectives(config)),
            fresh_model=lambda: build_model(job.encoder, store, vocabulary, config.seed, heads),
            make_batch=batches,
            losses=lambda model, batch, step: pretraining_losses(model, batch, config),
            vocabulary=vocabulary,
            validation=_validation(job, config, vocabulary, processes.device),
            watch=PretrainingWatch(config, batches),
            split=None if config.token_batches is None else _split_tokens(config.token_batches),
        )
        done = train(task, processes)
    return 0 if done else STOPPED


def _open_corpora(job: PretrainJob, vocabulary: Vocabulary) -> list[Corpus]:
    """The corpora of a run in the order of their numbers; mostly one."""
    sources = {source.name: source for source in (job.train, *job.also)}
    names = corpus_names(job.pretrain) or (job.train.name,)
    if sources.keys() != set(names):
        raise InputError(
            f"pretrain.corpora are {', '.join(names)}, but the job's data is {', '.join(sources)}; name the same ones"
        )
    corpora = [
        Corpus(name, *open_data(sources[name], vocabulary, job.encoder, job.pretrain.long_texts)) for name in names
    ]
    check_alike(corpora, job.encoder.max_regions)
    return corpora


def _open_text(job: PretrainJob, vocabulary: Vocabulary) -> MaskedText | None:
    """The rows of text alone of a run that learns from some.

    Raises:
        InputError: it learns from some and the job names none, or the other way round.
    """
    learns = any(one.reads_text for one in chosen_objectives(job.pretrain))
    if learns != (job.text is not None):
        raise InputError(
            "the objective mlm-text and the job's text belong together; "
            + ("name a text corpus" if learns else "choose the objective, or leave the text out")
        )
    if job.text is None:
        return None
    return open_text(job.text, vocabulary, job.encoder.max_text_tokens, job.pretrain)


def _split_tokens(asked: TokenBatches) -> Callable[[int], Split]:
    return lambda processes: split_tokens(asked.tokens, asked.buckets, asked.device_tokens, processes)


def _data_identity(corpora: Sequence[Corpus]) -> dict[str, Any]:
    """As of one split; of several by their names."""
    found = {corpus.name: data_identity(corpus.store, corpus.captions) for corpus in corpora}
    return found if len(found) > 1 else found[corpora[0].name]


def _validation(
    job: PretrainJob, config: PretrainConfig, vocabulary: Vocabulary, device: torch.device
) -> Validation | None:
    """Losses over fixed held-out pairs and recall over fixed held-out images, if the job asks for them."""
    if job.validation is None or config.validation_steps is None:
        return None
    store, captions, tokens = open_data(job.validation, vocabulary, job.encoder)
    losses = HeldOutLosses(
        store, captions, tokens, vocabulary, job.encoder.max_regions, config, job.encoder.picture_regions
    )
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
