"""Scoring all pairs: ours against a plain loop on the CPU; precisions and batch sizes; memory at COCO's size; a GPU.

The plain loop takes the pairs as they come, embeds both sides of each, pads each batch to its longest member and
computes the last layer whole: same model, same data, same batch size. It goes caption by caption through the images, as
UNITER's evaluation does, or image by image through the captions.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from model.data.batch import Regions, pad_words
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.metrics import measure
from model.downstream.retrieval.pairs import PairScorer, Tokens
from model.downstream.retrieval.scores import Plan, Scores, begin_scores, write_block
from model.families.embeddings import dequantise
from model.families.model import VisionLanguageModel
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.training.precision import computes_bf16
from tests.bench.clock import cpu_seconds
from tests.bench.step import LABELS, PEAK_FLOPS, VOCABULARY, WIDTH

IMAGES, CAPTIONS, BATCH = 8, 24, 8
LENGTHS = (11, 15, 19)
"""Of captions, in word pieces. As many share one as a batch holds: of thousands of captions, hundreds do."""
LARGE = (5_000, 25_000)
GPU_IMAGES, GPU_CAPTIONS, GPU_BATCH = 40, 5_000, 512
TARGET_PAIRS = 1_000 * 5_000

BATCHES = (8, 32, 256)
WIDTHS = (
    (128, UnicoderVLConfig(hidden_size=128, num_layers=2, num_heads=4, intermediate_size=512), 8, 64),
    (256, UnicoderVLConfig(hidden_size=256, num_layers=4, num_heads=4, intermediate_size=1024), 30, 32),
    (768, UnicoderVLConfig(num_layers=2), 100, 8),
)
"""Widths, with fewer layers than such models have, regions an image, and images enough for the clock."""

Order = Literal["caption by caption", "image by image"]


def run() -> Iterator[str]:
    size = UnicoderVLConfig()
    yield f"scoring {IMAGES} images x {CAPTIONS} captions on the CPU, {size.num_layers} layers x {size.hidden_size}:"
    texts = _texts(CAPTIONS)
    torch.set_num_threads(1)
    model, padding = _model(size), _model(UnicoderVLConfig(sequences="padded"))
    _ours(model, _regions([10]), texts[:1])  # What is slow the first time.
    for what, counts in (("10 to 100 regions", _adaptive(IMAGES)), ("100 regions each", [100] * IMAGES)):
        regions = _regions(counts)
        ours = _cost(partial(_ours, model, regions, texts))
        rate = IMAGES * CAPTIONS / ours
        orders: tuple[Order, ...] = ("caption by caption", "image by image")
        plain = {order: _cost(partial(_plain, padding, regions, texts, order)) for order in orders}
        ratios = ", ".join(f"{seconds / ours:.2f} x the plain loop {order}" for order, seconds in plain.items())
        yield f"  {what}: {rate:.2f} pairs a CPU-second, {ratios}"
    for width, encoder, count, images in WIDTHS:
        yield _choices(width, encoder, count, images)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        before, block, whole = pool.submit(_memory).result()
    images, captions = LARGE
    yield (
        f"memory at {images:,} x {captions:,}, base size, 100 regions: {before / 1e9:.2f} GB with the model, "
        f"{block / 1e9:.2f} GB at most in a block (a few of its pairs scored), {whole / 1e9:.2f} GB at most with the "
        "metrics of the whole matrix (drawn, not scored)"
    )
    yield from _gpu()


def scoring_flops(words: int, regions: int, encoder: UnicoderVLConfig) -> float:
    """Floating-point operations of a pair; a multiply and add are 2. Embedding is left out: it is done once an item.

    All layers but the last: 2 S (4 H^2 + 2 H I) + 4 S^2 H. The last: keys and values of all, the rest of [CLS].
    """
    width, inner, places = encoder.hidden_size, encoder.intermediate_size, words + regions + 1
    whole = 2 * places * (4 * width**2 + 2 * width * inner) + 4 * places**2 * width
    last = 2 * places * 2 * width**2 + 2 * (2 * width**2 + 2 * width * inner) + 4 * places * width
    return (encoder.num_layers - 1) * whole + last


def _cost(work: Callable[[], object]) -> float:
    """CPU seconds of one run: it is long enough to need no second one."""
    begun = cpu_seconds()
    work()
    return cpu_seconds() - begun


def _choices(width: int, encoder: UnicoderVLConfig, count: int, images: int) -> str:
    """What `auto` chooses between, and what it takes."""
    cpu, model, regions, texts = torch.device("cpu"), _model(encoder), _regions([count] * images), _texts(CAPTIONS)
    figures = []
    for precision in ("fp32", "bf16") if computes_bf16(cpu) else ("fp32",):
        rates = []
        for batch_size in BATCHES:
            scorer = PairScorer(model, ScoringConfig(precision=precision, batch_size=batch_size), cpu)
            scorer.score(_regions([count]), texts[:1])
            rates.append(images * CAPTIONS / _cost(partial(scorer.score, regions, texts)))
        figures.append(f"{precision} {', '.join(f'{rate:,.1f}' for rate in rates)}")
    taken = PairScorer(model, ScoringConfig(), cpu)
    return (
        f"  {width} wide, {encoder.num_layers} layers, {count} regions, {', '.join(map(str, BATCHES))} a pass: "
        f"{'; '.join(figures)} pairs a CPU-second; auto takes {taken.precision}, {taken.batch_size} a pass"
    )


def _ours(model: VisionLanguageModel, regions: Regions, texts: list[Tokens]) -> None:
    PairScorer(model, ScoringConfig(precision="fp32", batch_size=BATCH), torch.device("cpu")).score(regions, texts)


@torch.inference_mode()
def _plain(model: VisionLanguageModel, regions: Regions, texts: list[Tokens], order: Order) -> None:
    images, captions = len(regions.mask), len(texts)
    if order == "caption by caption":
        pairs = [(image, caption) for caption in range(captions) for image in range(images)]
    else:
        pairs = [(image, caption) for image in range(images) for caption in range(captions)]
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        shown = regions.take(torch.tensor([image for image, _ in some]))
        most = int(shown.mask.sum(1).max())
        shown = Regions(
            **{
                name: value if name == "sizes" else value[:, :most].contiguous()
                for name, value in shown.given().items()
            }
        )
        words = pad_words([texts[caption] for _, caption in some], 0)
        model.match(model.bert(words, shown, dequantise(shown)).cls)


def _memory() -> tuple[int, int, int]:
    """Peak bytes of a process: with a model, while it scores in a full block, and after the metrics of a matrix."""
    torch.set_num_threads(1)
    model = _model(UnicoderVLConfig())
    before = _peak()
    images, captions = LARGE
    rows = ScoringConfig().block_pairs // captions
    wanted = np.zeros((rows, captions), np.bool_)
    wanted.ravel()[np.random.default_rng(0).choice(wanted.size, 64, replace=False)] = True
    config = ScoringConfig(precision="fp32", batch_size=256)
    PairScorer(model, config, torch.device("cpu")).score(_regions([100] * rows), _texts(captions), wanted)
    block = _peak()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(images=images, captions=captions, rows=rows, identity={})
        owners = np.arange(captions) % images
        begin_scores(Path(folder), plan, [f"{n}" for n in range(images)], [f"{n}" for n in range(captions)], owners)
        for number in range(plan.blocks):
            write_block(Path(folder), plan, number, rng.random((len(plan.rows_of(number)), captions), dtype=np.float32))
        scores = Scores(Path(folder))
        measure(scores, scores.caption_image, ["all"])
    return before, block, _peak()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _gpu() -> Iterator[str]:
    if not torch.cuda.is_available():
        yield "on a GPU: no GPU here: skipped"
        return
    name, encoder, words = torch.cuda.get_device_name(), UnicoderVLConfig(), 16
    model = _model(encoder).cuda()
    scorer = PairScorer(model, ScoringConfig(batch_size=GPU_BATCH, precision="bf16"), torch.device("cuda"))
    rng = np.random.default_rng(0)
    texts = [rng.integers(1000, VOCABULARY, words).astype(np.int32) for _ in range(GPU_CAPTIONS)]
    regions = _regions([100] * GPU_IMAGES)
    scorer.score(regions, texts[: GPU_BATCH // GPU_IMAGES + 1])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    scorer.score(regions, texts)
    seconds = time.perf_counter() - begun
    rate = GPU_IMAGES * GPU_CAPTIONS / seconds
    peak = next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
    used = "" if peak is None else f", {rate * scoring_flops(words, 100, encoder) / peak:.0%} MFU"
    yield (
        f"on one {name}, bf16, {words} word pieces and 100 regions: {rate:,.0f} pairs/s{used}; 1,000 x 5,000 pairs "
        f"would take {TARGET_PAIRS / rate / 60:.1f} minutes (measured on {GPU_IMAGES} x {GPU_CAPTIONS:,}); peak memory "
        f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    )


def _model(encoder: UnicoderVLConfig) -> VisionLanguageModel:
    torch.manual_seed(0)
    return VisionLanguageModel(VOCABULARY, WIDTH, LABELS, sep_id=102, encoder=encoder.model_dump()).eval()


def _texts(captions: int) -> list[Tokens]:
    """In no order of their lengths; [CLS] and [SEP] are counted."""
    rng = np.random.default_rng(1)
    lengths = rng.permutation(np.resize(LENGTHS, captions))
    return [rng.integers(1000, VOCABULARY, length).astype(np.int32) for length in lengths]


def _adaptive(images: int) -> list[int]:
    """10 to 100 regions an image, as an adaptive selection leaves them."""
    return [int(count) for count in np.random.default_rng(2).integers(10, 101, images)]


def _regions(counts: list[int]) -> Regions:
    rng = torch.Generator().manual_seed(0)
    shape = (len(counts), max(counts))
    corner = torch.rand(*shape, 2, generator=rng) * 200
    return Regions(
        features=torch.randint(0, 256, (*shape, WIDTH), dtype=torch.uint8, generator=rng),
        scales=torch.full(shape, 2.0),
        boxes=torch.cat([corner, corner + 50], -1),
        sizes=torch.tensor([[640.0, 480.0]]).repeat(len(counts), 1),
        labels=torch.zeros(shape, dtype=torch.int64),
        scores=torch.full(shape, 0.5),
        background=torch.full(shape, 0.1),
        mask=torch.arange(shape[1]) < torch.tensor(counts).unsqueeze(1),
    )
