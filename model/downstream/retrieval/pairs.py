"""Scores of many images with many captions, each embedded once.

What makes it fast is exact: captions of the same word pieces are scored once; pairs go through the layers sorted by the
number of regions and of word pieces, so that next to nothing is padded; the last layer computes [CLS] alone; features
stay uint8 until they are on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.data.batch import Regions, join_rows, pad_words
from model.data.order import Index
from model.downstream.retrieval.alike import first_alike
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.scores import Floats
from model.errors import InputError
from model.families.embeddings import dequantise
from model.families.family import Side
from model.families.model import VisionLanguageModel
from model.training.precision import choose_batch_size, choose_precision, computes_bf16, is_wide

Tokens = npt.NDArray[np.int32]

_IMAGES_AT_ONCE = 64
"""Images whose features are f32 at a time: 52 MB of them at 100 x 2048."""
_CAPTIONS_AT_ONCE = 4096
"""Captions whose states are held at a time: 160 MB of them at 13 pieces of 768."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Embedded:
    """One side of the pairs on the device, and how many places of each row are real, (N,), here."""

    side: Side
    counts: Index


class PairScorer:
    """Scores pairs by matching logits in f32. A score depends on its pair alone, up to rounding (1e-5 in fp32, 1e-2 in
    bf16).

    Attributes:
        width: H of the model.
        precision: that the layers compute in.
        batch_size: pairs a pass; halved where they do not fit in the device's memory.
    """

    def __init__(self, model: VisionLanguageModel, config: ScoringConfig, device: torch.device) -> None:
        """
        Args:
            model: in evaluation mode, on the device.
        """
        self._model, self._device = model, device
        self.width = model.config.hidden_size
        self.precision = choose_precision(config.precision, device, self.width)
        self.batch_size = choose_batch_size(config.batch_size, device, self.width)

    @property
    def would_gain_from_bf16(self) -> bool:
        """Whether scores in bf16 would come sooner."""
        return self.precision == "fp32" and is_wide(self.width) and computes_bf16(self._device)

    @torch.inference_mode()
    def score(
        self,
        regions: Regions,
        texts: Sequence[Tokens],
        wanted: npt.NDArray[np.bool_] | None = None,
        on_pairs: Callable[[int], object] = lambda pairs: None,
    ) -> Floats:
        """
        Args:
            regions: of I images; more images than some hundreds want much memory.
            texts: C captions, [CLS] words [SEP] each.
            wanted: (I, C), the pairs that are scored; None: all of them.
            on_pairs: is told how many more pairs are done, a batch at a time.

        Returns:
            (I, C) f32; -inf where not wanted. Captions of equal tokens have equal scores, to the last bit.

        Raises:
            InputError: one pair alone does not fit in the device's memory.
        """
        images = self._embed_images(regions.to(self._device))
        first, of = np.unique(first_alike(text.tobytes() for text in texts), return_inverse=True)
        distinct = [texts[column] for column in first.tolist()]
        asked = _times_asked(wanted, of, len(images.counts))
        scores = np.full(asked.shape, -np.inf, np.float32)
        order = np.argsort([len(text) for text in distinct], kind="stable")
        for start in range(0, len(distinct), _CAPTIONS_AT_ONCE):
            columns = order[start : start + _CAPTIONS_AT_ONCE]
            chosen = [distinct[column] for column in columns.tolist()]
            scores[:, columns] = self._score_some(images, chosen, asked[:, columns], on_pairs)
        scores = scores[:, of]
        return scores if wanted is None else np.where(wanted, scores, np.float32(-np.inf))

    def _embed_images(self, regions: Regions) -> _Embedded:
        rows = torch.arange(len(regions.mask), device=self._device)
        parts = [regions.take(some) for some in torch.split(rows, _IMAGES_AT_ONCE)]
        sides = [self._model.bert.embed_regions(part, dequantise(part)) for part in parts]
        return _Embedded(join_rows(sides), regions.mask.sum(1).cpu().numpy())

    def _score_some(
        self,
        images: _Embedded,
        texts: Sequence[Tokens],
        asked: Index,
        on_pairs: Callable[[int], object],
    ) -> Floats:
        """(I, C) of the pairs that are `asked` (I, C), so many times each; `texts` come shortest first."""
        words = pad_words(texts, 0).to(self._device)
        captions = _Embedded(self._model.bert.embed_words(words), np.array([len(text) for text in texts]))
        image, caption = np.nonzero(asked)
        # Pairs of equal shape side by side.
        order = np.lexsort((image, caption, images.counts[image]))
        image, caption = image[order], caption[order]
        rows, columns = torch.from_numpy(image).to(self._device), torch.from_numpy(caption).to(self._device)
        scores = torch.full((len(images.counts), len(texts)), -torch.inf, device=self._device)
        start = 0
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            while start < len(image):
                some = slice(start, start + self.batch_size)
                tokens, many = captions.counts[caption[some]], images.counts[image[some]]
                try:
                    logits = self._score_batch(images.side, captions.side, rows[some], columns[some], tokens, many)
                except torch.OutOfMemoryError as error:
                    self._halve_batch(error)
                    continue
                scores[rows[some], columns[some]] = logits
                start += len(tokens)
                on_pairs(int(asked[image[some], caption[some]].sum()))
        return scores.cpu().numpy()

    def _score_batch(
        self, images: Side, captions: Side, rows: Tensor, columns: Tensor, tokens: Index, many: Index
    ) -> Tensor:
        """Logits (P,) of pairs that have `tokens` word pieces and `many` regions, (P,) each."""
        width, regions = int(tokens.max()), int(many.max())
        is_padded = bool(tokens.min() < width or many.min() < regions)
        texts, shown = captions.first(width).take(columns), images.first(regions).take(rows)
        cls = self._model.bert.cls_states(texts, shown, is_padded)
        # The head in f32: half precision has so few digits that different scores would tie.
        with torch.autocast(self._device.type, enabled=False):
            return self._model.match(cls.float())

    def _halve_batch(self, error: torch.OutOfMemoryError) -> None:
        if self.batch_size == 1:
            raise InputError(
                f"one pair does not fit in the memory of {self._device}; free it, or set scoring.device to another one"
            ) from error
        self.batch_size //= 2
        _log.warning("%s is out of memory: from now on %d pairs a pass", self._device, self.batch_size)


def _times_asked(wanted: npt.NDArray[np.bool_] | None, of: Index, images: int) -> Index:
    """How many captions want each distinct one (I, D) of an image; `of` (C,) maps captions to distinct ones."""
    times = np.bincount(of)
    if wanted is None:
        return np.broadcast_to(times, (images, len(times)))
    by_text = np.argsort(of, kind="stable")
    starts = np.cumsum(times) - times
    return np.add.reduceat(wanted[:, by_text], starts, axis=1, dtype=np.int64)
