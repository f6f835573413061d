"""The loss of retrieval finetuning: a hinge on wrong captions and wrong images of each pair, the hardest ones alone.

Unicoder-VL (arXiv:1908.06066) section 3.3: the score s of a pair is the matching head's, and the loss of image i and
caption c is max(0, margin - s(i, c) + s(i, c')) + max(0, margin - s(i, c) + s(i', c)) over the hardest c' and i'.
UNITER (arXiv:1909.11740) takes one of each at random, or the mean over the 31 hardest of 399; its margin is .2 on the
sigmoid of s.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.downstream.retrieval.batches import RetrievalBatch
from model.downstream.retrieval.config import FinetuneConfig
from model.families.embeddings import dequantise
from model.families.model import VisionLanguageModel
from model.training.losses import LossSums


def score_pairs(model: VisionLanguageModel, batch: RetrievalBatch) -> Tensor:
    """Score the pairs: matching logits (B, 1 + 2 N) f32."""
    score = _embed(model, batch)
    return score(batch.image_slots.flatten(), batch.word_slots.flatten()).view_as(batch.image_slots)


def _embed(model: VisionLanguageModel, batch: RetrievalBatch) -> Callable[[Tensor, Tensor], Tensor]:
    """Embed each image and each caption of the batch once.

    Returns:
        Positions of images and of captions, (P,) each, to matching logits (P,) f32.
    """
    texts = model.bert.embed_words(batch.words)
    images = model.bert.embed_regions(batch.regions, dequantise(batch.regions))

    def score(image: Tensor, word: Tensor) -> Tensor:
        cls = model.bert.cls_states(texts.take(word), images.take(image))
        # The head in f32, as in evaluation: in half precision, scores that differ would tie.
        with torch.autocast(cls.device.type, enabled=False):
            return model.match(cls.float())

    return score


@torch.no_grad()
def hardest_negatives(
    model: VisionLanguageModel, batch: RetrievalBatch, pairs_at_once: int, count: int = 1
) -> RetrievalBatch:
    """Reduce each pair to the wrong captions and the wrong images that score highest: N = count, at most.

    Scored without gradients and dropout, so that it takes no random numbers; a pair that two of the batch ask for, as
    wrong caption and as wrong image, is scored once.
    """
    captions = len(batch.words.ids)
    pairs, places = torch.unique(batch.image_slots * captions + batch.word_slots, return_inverse=True)
    was_training = model.training
    model.eval()
    # Without autocast's cache: some versions keep the half-precision weights made here, which have no gradient, for
    # the pass that needs it (PyTorch issue 105211).
    with torch.autocast(pairs.device.type, enabled=torch.is_autocast_enabled(pairs.device.type), cache_enabled=False):
        score = _embed(model, batch)
        logits = torch.cat([score(some // captions, some % captions) for some in pairs.split(pairs_at_once)])
    model.train(was_training)
    kept = hardest_places(logits[places[:, 1:]], batch.is_wrong, count)
    columns = torch.cat([torch.zeros_like(kept[:, :1]), 1 + kept], dim=1)
    images, image_slots = torch.unique(batch.image_slots.gather(1, columns), return_inverse=True)
    words, word_slots = torch.unique(batch.word_slots.gather(1, columns), return_inverse=True)
    return RetrievalBatch(batch.words.take(words), batch.regions.take(images), image_slots, word_slots, batch.missing)


def hardest_places(logits: Tensor, is_wrong: Tensor, count: int) -> Tensor:
    """Columns of (B, 2 N) with the `count` highest logits of each side, highest first: (B, 2 count), or all N.

    Those that are not wrong come last; of equals the first.
    """
    scores = logits.masked_fill(~is_wrong, -torch.inf)
    captions, images = (
        side.sort(dim=1, descending=True, stable=True).indices[:, :count] for side in scores.chunk(2, dim=1)
    )
    return torch.cat([captions, scores.shape[1] // 2 + images], dim=1)


def pair_hinges(logits: Tensor, is_wrong: Tensor, config: FinetuneConfig) -> Tensor:
    """The hinge of each wrong pair against its matched one: (B, 2 N), 0 where the pair is not wrong."""
    scores = torch.sigmoid(logits) if config.score == "sigmoid" else logits
    return (config.margin - scores[:, :1] + scores[:, 1:]).clamp(min=0).masked_fill(~is_wrong, 0)


def hinge_losses(logits: Tensor, is_wrong: Tensor, config: FinetuneConfig, average: bool = False) -> Tensor:
    """Add the hinges of both sides of each pair: (B,). A side without a wrong one adds nothing.

    Args:
        logits: (B, 1 + 2 N), as `RetrievalBatch` orders them.
        is_wrong: (B, 2 N), of the batch.
        average: take the mean of each side's hinges (`mean_hinge_share`) instead of the largest (the paper).
    """
    captions, images = pair_hinges(logits, is_wrong, config).chunk(2, dim=1)
    if average:
        of_captions, of_images = (side.sum(1).clamp(min=1) for side in is_wrong.chunk(2, dim=1))
        return config.text_weight * captions.sum(1) / of_captions + config.image_weight * images.sum(1) / of_images
    return config.text_weight * captions.amax(1) + config.image_weight * images.amax(1)


def retrieval_losses(model: VisionLanguageModel, batch: RetrievalBatch, config: FinetuneConfig, step: int) -> LossSums:
    """The hinge loss, K = 1; a pair is right when it scores above all of its negatives."""
    if config.mines(step):
        batch = hardest_negatives(model, batch, config.mining_batch_size, config.hardest or 1)
    logits, is_wrong = score_pairs(model, batch), batch.is_wrong
    hinges = hinge_losses(logits, is_wrong, config, average=config.averages(step))
    right = ((logits[:, :1] > logits[:, 1:]) | ~is_wrong).all(1)
    return LossSums(("hinge",), hinges.sum().unsqueeze(0), right.sum().float().unsqueeze(0))
