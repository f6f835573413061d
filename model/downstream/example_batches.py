"""Examples of a split with their tokens, and batches of them: the first text and the first image of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.config import ExampleSource, LongTexts, LoopConfig
from model.data.batch import Movable, Regions, Words, pad_words
from model.data.examples import Examples, load_examples
from model.data.order import WHOLE, BatchOrder, Index, Part
from model.data.store import FeatureStore, open_store
from model.data.tokenizer import TokenTable, Vocabulary, tokenize
from model.downstream.task import Predictions, Scores
from model.errors import InputError
from model.families.config import EncoderConfig
from model.families.model import VisionLanguageModel


@dataclass(frozen=True)
class ExampleBatch(Movable):
    """B examples: targets (B,) i64, -1 where there is none. missing: () i64, 0, for nothing is drawn beside them."""

    words: Words
    regions: Regions
    targets: Tensor
    missing: Tensor

    @property
    def counts(self) -> Tensor:
        """The number of examples (1,) f32, each with one target."""
        return torch.tensor([len(self.targets)], dtype=torch.float32)


@dataclass(frozen=True)
class ExampleData:
    """A split's examples with what is read of them."""

    store: FeatureStore
    examples: Examples
    tokens: TokenTable
    vocabulary: Vocabulary
    max_regions: int
    dropped: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        return {"features": self.store.manifest_sha256, "examples": self.examples.digest}

    def read(self, rows: Index) -> ExampleBatch:
        return ExampleBatch(
            words=pad_words([self.tokens[row] for row in rows.tolist()], self.vocabulary.pad_id),
            regions=self.store.read(self.examples.image_rows[rows, 0], self.max_regions),
            targets=torch.from_numpy(self.examples.target_index[rows]),
            missing=torch.tensor(0),
        )


def open_examples(
    source: ExampleSource, vocabulary: Vocabulary, encoder: EncoderConfig, long_texts: LongTexts = "cut"
) -> ExampleData:
    """Open a split's features and its table of examples.

    Raises:
        InputError: the table cannot be read, or all texts are too long and long_texts is drop.
    """
    store = open_store(source, encoder.adaptive_regions)
    examples, limit, dropped = load_examples(Path(source.examples_path), store.keys), encoder.max_text_tokens, 0
    if long_texts == "drop":
        # One token more than a text may have tells the longer ones.
        lengths = np.diff(tokenize(vocabulary, [texts[0] for texts in examples.texts], limit + 1).starts)
        short = np.flatnonzero(lengths <= limit)
        dropped = len(lengths) - len(short)
        if len(short) == 0:
            raise InputError(
                f"{source.name}: all {dropped} examples have more than encoder.max_text_tokens={limit} tokens, and "
                "long_texts is drop; set it to cut, or max_text_tokens higher"
            )
        examples = examples.pick(short)
    tokens = tokenize(vocabulary, [texts[0] for texts in examples.texts], limit)
    return ExampleData(store, examples, tokens, vocabulary, encoder.max_regions, dropped)


def example_batches(
    data: ExampleData, encoder: EncoderConfig, config: LoopConfig
) -> Callable[[int, Part], ExampleBatch]:
    """Makes the batch of a step.

    Raises:
        InputError: an example has no target, so nothing can be learnt from it.
    """
    without = (data.examples.target_index < 0).nonzero()[0]
    if len(without):
        raise InputError(
            f"{len(without)} of {len(data.examples)} examples have no target_index, the first is "
            f"{data.examples.ids[int(without[0])]}; train on a split with targets"
        )
    images = data.examples.image_rows[:, 0]
    order = BatchOrder(config.seed, config.batch_size, data.store.shard_of[images], images, store=data.store)

    def make(step: int, part: Part = WHOLE) -> ExampleBatch:
        return data.read(torch.tensor([sample for _, sample in order.step(step, part)]).numpy())

    return make


def predictions(
    logits: Callable[[VisionLanguageModel, ExampleBatch], Tensor],
    measure: Callable[[Examples, Scores], dict[str, Any]],
) -> Predictions[ExampleData]:
    """Predictions of a task whose examples have a target_index.

    Args:
        logits: (B, W) of a batch.
        measure: scores (N, W) of all examples to the content of metrics.json.
    """

    def scores(model: VisionLanguageModel, data: ExampleData, rows: Index, device: torch.device) -> Scores:
        found: Scores = logits(model, data.read(rows).to(device)).float().cpu().numpy()
        return found

    def measured(data: ExampleData, scores: Scores) -> dict[str, Any] | None:
        without = np.flatnonzero(data.examples.target_index < 0)
        if len(without) == len(data.examples):
            return None
        if len(without):
            raise InputError(
                f"{len(without)} of {len(data.examples)} examples have no target_index, the first is "
                f"{data.examples.ids[int(without[0])]}, so nothing is measured; give all targets or none"
            )
        return measure(data.examples, scores)

    return Predictions(lambda data: list(data.examples.ids), scores, measured)
