"""A pretraining step: our encoder against transformers' VisualBertForPreTraining on the CPU, and its speed on a GPU.

CPU: forward and backward; same layers, widths, vocabulary, batch and lengths, one thread, each in a process of its own
so that its peak memory can be read. Both predict masked words and matching; ours predicts masked regions' labels as
well and turns bytes into features. The optimiser is left out: it is the same for both.

GPU: the whole step with AdamW, bf16, batch 192, packed, attention dropout 0, batches made beforehand.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers import VisualBertConfig, VisualBertForPreTraining

from model.config import OptimConfig
from model.data.batch import Regions, Words
from model.families.model import VisionLanguageModel
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.objectives.config import PretrainConfig
from model.objectives.hiding import Replacements
from model.objectives.objective import PretrainBatch
from model.objectives.sum import pretraining_losses
from model.objectives.targets import Targets
from model.training.optim import make_optimizer
from tests.bench.clock import cpu_cost

WIDTH, VOCABULARY, LABELS, MASKED = 2048, 30_522, 1_600, 0.15
ROUNDS = 3
GPU_BATCH, GPU_STEPS = 192, 30
PAIRS_TO_SEE = 10 * 3_000_000
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16, as the maker states."""


@dataclass(frozen=True)
class Lengths:
    """Word pieces ([CLS] and [SEP] included) and regions of each pair of a batch."""

    words: list[int]
    regions: list[int]


FULL = Lengths([43] * 4, [100] * 4)


def captions_like_coco(pairs: int) -> Lengths:
    """8 to 20 word pieces, and 10 to 100 regions as an adaptive selection leaves them."""
    rng = np.random.default_rng(0)
    return Lengths((rng.integers(8, 21, pairs) + 2).tolist(), rng.integers(10, 101, pairs).tolist())


def run() -> Iterator[str]:
    size, real = UnicoderVLConfig(), captions_like_coco(8)
    yield f"pretraining step on the CPU, {size.num_layers} layers x {size.hidden_size}, forward and backward:"
    for name, lengths in (("4 pairs of 144 positions", FULL), ("8 pairs of real caption lengths", real)):
        ours, ours_memory = _alone(_ours, lengths, "auto")
        theirs, their_memory = _alone(_visual_bert, lengths)
        memory = f"peak memory {ours_memory / 1e9:.2f} GB, {ours_memory / their_memory:.2f} x its"
        yield f"  {name}: {ours:.2f} CPU-s, {theirs / ours:.2f} x the speed of VisualBertForPreTraining; {memory}"
    padded, _ = _alone(_ours, real, "padded")
    yield f"  the latter, packed, {padded / ours:.2f} x the speed of our own padded path ({padded:.2f} CPU-s)"
    yield from _gpu()


def training_flops(lengths: Lengths, encoder: UnicoderVLConfig, targets: tuple[int, int]) -> float:
    """Floating-point operations of forward and backward, 3 x forward; a multiply and add are 2.

    Forward of a sequence of S: layers x (2 S (4 H^2 + 2 H I) + 4 S^2 H). Region projection 2 R D H. Heads, per target:
    words 2 (H^2 + H V), labels 2 H C. Only real positions count.
    """
    width, inner = encoder.hidden_size, encoder.intermediate_size
    forward = 0.0
    for words, regions in zip(lengths.words, lengths.regions, strict=True):
        places = words + regions + 1
        forward += encoder.num_layers * (2 * places * (4 * width**2 + 2 * width * inner) + 4 * places**2 * width)
        forward += 2 * regions * WIDTH * width
    forward += targets[0] * 2 * (width**2 + width * VOCABULARY) + targets[1] * 2 * width * LABELS
    return 3 * forward


def _alone(work: Callable[..., float], *arguments: object) -> tuple[float, int]:
    """CPU seconds of a step, and the peak memory in bytes of the process that did nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, work, *arguments).result()


def _measure(work: Callable[..., float], *arguments: object) -> tuple[float, int]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cost = work(*arguments)
    return cost, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _ours(lengths: Lengths, sequences: Literal["auto", "padded", "packed"]) -> float:
    encoder = UnicoderVLConfig(sequences=sequences)
    model = VisionLanguageModel(VOCABULARY, WIDTH, LABELS, sep_id=102, encoder=encoder.model_dump()).train()
    batch, config = make_batch(lengths), PretrainConfig()

    def step() -> None:
        pretraining_losses(model, batch, config).sums.sum().backward()
        model.zero_grad(set_to_none=True)

    return cpu_cost(step, ROUNDS)


def _visual_bert(lengths: Lengths) -> float:
    size = UnicoderVLConfig()
    config = VisualBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden_size,
        visual_embedding_dim=WIDTH,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=size.intermediate_size,
        hidden_dropout_prob=size.dropout,
        attention_probs_dropout_prob=size.attention_dropout,
    )
    model = VisualBertForPreTraining(config).train()
    # One word more than ours has before its regions: ours has a closing [SEP] behind them.
    word_mask = _first([count + 1 for count in lengths.words])
    region_mask = _first(lengths.regions)
    words = torch.randint(1000, VOCABULARY, word_mask.shape)
    chosen = word_mask & (torch.rand(word_mask.shape) < MASKED)
    targets = torch.cat([torch.where(chosen, words, -100), torch.full(region_mask.shape, -100)], 1)
    inputs = {
        "input_ids": words,
        "attention_mask": word_mask.long(),
        "visual_embeds": torch.rand(*region_mask.shape, WIDTH),
        "visual_attention_mask": region_mask.long(),
        "visual_token_type_ids": torch.ones_like(region_mask, dtype=torch.int64),
        "labels": targets,
        "sentence_image_labels": torch.arange(len(words)) % 2,
    }

    def step() -> None:
        model(**inputs).loss.backward()
        model.zero_grad(set_to_none=True)

    return cpu_cost(step, ROUNDS)


def _gpu() -> Iterator[str]:
    if not torch.cuda.is_available():
        yield "  on a GPU: no GPU here: skipped"
        return
    name = torch.cuda.get_device_name()
    peak = next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
    yield f"pretraining step on one {name}, bf16, packed, batch {GPU_BATCH}, with AdamW:"
    for what, lengths in (
        ("144 positions", Lengths([43] * GPU_BATCH, [100] * GPU_BATCH)),
        ("real caption lengths", captions_like_coco(GPU_BATCH)),
    ):
        seconds, flops, memory = _gpu_step(lengths)
        rate = GPU_BATCH / seconds
        utilisation = "" if peak is None else f", {flops / seconds / peak:.0%} MFU of {peak / 1e12:.0f} TFLOP/s"
        yield (
            f"  {what}: {rate:,.0f} samples/s{utilisation}, {PAIRS_TO_SEE / rate / 3600:.2f} h for 10 x 3 M pairs, "
            f"peak memory {memory / 1e9:.1f} GB"
        )


def _gpu_step(lengths: Lengths) -> tuple[float, float, int]:
    """Seconds and floating-point operations of a step, and peak bytes on the device."""
    encoder = UnicoderVLConfig(attention_dropout=0.0, sequences="packed")
    model = VisionLanguageModel(VOCABULARY, WIDTH, LABELS, sep_id=102, encoder=encoder.model_dump()).cuda().train()
    optimizer, config = make_optimizer(model, OptimConfig()), PretrainConfig()
    batch = make_batch(lengths)
    flops = training_flops(lengths, encoder, (len(batch.targets["mlm"]), len(batch.targets["moc"])))
    batch = batch.to(torch.device("cuda"))

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = pretraining_losses(model, batch, config).sums.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(5):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    for _ in range(GPU_STEPS):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / GPU_STEPS, flops, torch.cuda.max_memory_allocated()


def _first(counts: list[int]) -> torch.Tensor:
    """(B, most) bool: True at the first counts[b] places of row b."""
    return torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)


def make_batch(lengths: Lengths) -> PretrainBatch:
    word_mask, region_mask = _first(lengths.words), _first(lengths.regions)
    corner = torch.rand(*region_mask.shape, 2) * 200
    regions = Regions(
        features=torch.randint(0, 256, (*region_mask.shape, WIDTH), dtype=torch.uint8),
        scales=torch.full(region_mask.shape, 2.0),
        boxes=torch.cat([corner, corner + 50], -1),
        sizes=torch.tensor([[640.0, 480.0]]).repeat(len(region_mask), 1),
        labels=torch.randint(0, LABELS, region_mask.shape),
        scores=torch.full(region_mask.shape, 0.5),
        background=torch.full(region_mask.shape, 0.1),
        mask=region_mask,
    )
    ids = torch.randint(1000, VOCABULARY, word_mask.shape)
    word_pairs, word_places = np.nonzero((word_mask & (torch.rand(word_mask.shape) < MASKED)).numpy())
    hidden = region_mask & (torch.rand(region_mask.shape) < MASKED)
    region_pairs, region_places = np.nonzero(hidden.numpy())
    none, pairs = torch.zeros(0, dtype=torch.int64), np.arange(len(ids))
    return PretrainBatch(
        words=Words(ids, word_mask),
        regions=regions,
        hidden=Replacements(hidden, none, none, none, none, none, regions.features[:0, 0], regions.scales[:0, 0]),
        targets={
            "mlm": Targets.labels(word_pairs, word_places, ids.numpy()[word_pairs, word_places]),
            "moc": Targets.labels(region_pairs, region_places, regions.labels.numpy()[region_pairs, region_places]),
            "vlm": Targets.labels(pairs, np.zeros(len(pairs)), pairs % 2),
        },
        missing=torch.tensor(0),
    )
