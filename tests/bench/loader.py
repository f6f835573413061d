"""Batches from warm shards: our reader against WebDataset's usual way, `.decode()` of npy members and a DataLoader.

And what whole batches cost, with their captions, masks and negatives; and opening a split of 3 million samples.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from feature_extraction.samples.regions import RegionSample, quantise
from feature_extraction.samples.tars import write_tar
from model.data.captions import Captions
from model.data.store import FeatureStore
from model.data.tokenizer import TokenTable, Vocabulary, load_vocabulary, tokenize
from model.downstream.retrieval.batches import RetrievalBatches
from model.downstream.retrieval.config import FinetuneConfig
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig
from tests.bench import opening
from tests.bench.batching import batching
from tests.bench.clock import cpu_cost, run_command
from tests.toy import VOCABULARY, WORDS, write_feature_set

SAMPLES, PER_SHARD, REGIONS, WIDTH, BATCH = 512, 128, 100, 2048, 64
DIFFERENT = 32
"""Samples made; they repeat under other keys, for a reader does not look at values."""
CLASSES = 1600
ROUNDS = 3


def run() -> Iterator[str]:
    torch.set_num_threads(1)
    samples = _samples()
    with tempfile.TemporaryDirectory() as folder:
        write_feature_set(Path(folder, "sqrt8"), samples, PER_SHARD, REGIONS, WIDTH)
        store = FeatureStore(Path(folder, "sqrt8"))
        order = np.random.default_rng(0).permutation(SAMPLES)

        def read() -> None:
            for start in range(0, SAMPLES, BATCH):
                regions = store.read(order[start : start + BATCH], REGIONS)
                assert regions.features.shape == (BATCH, REGIONS, WIDTH)

        ours = cpu_cost(read, ROUNDS)
        yield f"FeatureStore.read, sqrt8, {REGIONS} x {WIDTH}, batch {BATCH}: {SAMPLES / ours:,.0f} samples/s per core"
        for name, half in (("fp16", True), ("sqrt8's bytes", False)):
            shards = _write_npy(Path(folder, "npy"), samples, half)

            def read_npy(shards: list[str] = shards) -> None:
                pairs = wds.WebDataset(shards, shardshuffle=False).decode()
                members = ["features.npy", "boxes.npy", "labels.npy", "scores.npy", "background.npy"]
                members += [] if half else ["scales.npy"]  # noqa: B023 (read at once)
                count = 0
                for batch in DataLoader(pairs.to_tuple(*members), batch_size=BATCH, num_workers=1):
                    count += len(batch[0])
                assert count == SAMPLES

            peer = cpu_cost(read_npy, ROUNDS)
            yield (
                f"  {peer / ours:.1f} x WebDataset .decode() of npy ({name}) + DataLoader with one worker "
                f"({SAMPLES / peer:,.0f} samples/s per core)"
            )
        yield from _class_scores(Path(folder), samples, ours)
        yield from _batches(Path(folder), store)
        store.close()
    yield from _opening()


def _class_scores(folder: Path, samples: list[RegionSample], without: float) -> Iterator[str]:
    """What records cost that hold class scores, unasked for and asked for."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 4, (REGIONS, 1 + CLASSES))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    whole = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    top = np.argsort(-whole[:, 1:], axis=1)[:, :10]
    best = {"top_labels": top.astype(np.int16), "top_scores": np.take_along_axis(whole[:, 1:], top, axis=1)}
    order = random.permutation(SAMPLES)
    for stored, more in (("all", {"class_scores": whole}), ("top:10", best)):
        made = [replace(sample, background=whole[:, 0], **more) for sample in samples]
        write_feature_set(folder / stored, made, PER_SHARD, REGIONS, WIDTH, labels=[str(n) for n in range(CLASSES)])
        store = FeatureStore(folder / stored)
        for asked in (False, True):

            def read(store: FeatureStore = store, asked: bool = asked) -> None:
                for start in range(0, SAMPLES, BATCH):
                    store.read(order[start : start + BATCH], REGIONS, class_scores=asked)

            cost = cpu_cost(read, ROUNDS)
            yield (
                f"  of records with class scores {stored} of {CLASSES:,} classes, {'' if asked else 'not '}asked for: "
                f"{cost / without:.2f} x the time without ({SAMPLES / cost:,.0f} samples/s per core; "
                f"{store.layout.tar_bytes:,} bytes each)"
            )
        store.close()


def _batches(folder: Path, store: FeatureStore) -> Iterator[str]:
    """Whole batches of both kinds of training, everything but the model."""
    vocabulary, captions, tokens = _captions(folder, store)
    pretrain = PretrainBatches(store, captions, tokens, vocabulary, REGIONS, PretrainConfig(batch_size=BATCH))
    retrieval = RetrievalBatches(store, captions, tokens, vocabulary, REGIONS, FinetuneConfig(batch_size=BATCH))
    for name, make in (("pretraining", pretrain), ("retrieval with 3 + 3 negatives", retrieval)):
        images = sum(len(make(step).regions.mask) for step in range(SAMPLES // BATCH))

        def run_epoch(make: PretrainBatches | RetrievalBatches = make) -> None:
            for step in range(SAMPLES // BATCH):
                make(step)

        cost = cpu_cost(run_epoch, ROUNDS)
        yield (
            f"whole batches for {name}: {SAMPLES / cost:,.0f} captions/s per core, "
            f"{images / SAMPLES:.1f} images read for each"
        )
    yield from batching(folder / "sqrt8", vocabulary, captions, tokens, REGIONS, BATCH)


def _captions(folder: Path, store: FeatureStore) -> tuple[Vocabulary, Captions, TokenTable]:
    """A caption of ten words for each image."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    vocabulary = load_vocabulary(folder / "vocab.txt")
    words = np.random.default_rng(0).choice(WORDS, (SAMPLES, 10))
    texts = [" ".join(row) for row in words]
    captions = Captions(store.keys[:], texts, np.arange(SAMPLES))
    return vocabulary, captions, tokenize(vocabulary, texts, 43)


def _opening() -> Iterator[str]:
    """Both openings in processes of their own: the first prepares what the second finds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        opening.make_split(folder)
        for occasion in ("first, with all that is prepared once", "every later one"):
            command = [sys.executable, "-m", "tests.bench.opening", str(folder)]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
            run_command(command, folder / "log.txt", environment, folder)
            took = json.loads((folder / "log.txt").read_text().splitlines()[-1])
            parts = ", ".join(f"{part} {took[part]:.2f}" for part in opening.PARTS)
            yield (
                f"opening {opening.SAMPLES:,} samples in {opening.SHARDS:,} shards, {occasion}: {took['total']:.2f} s "
                f"({parts}); {took['private MB']:.0f} MB of its own, {took['peak MB']:.0f} MB at the peak"
            )


def _samples() -> list[RegionSample]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(DIFFERENT):
        features = np.maximum(rng.normal(0.3, 1, (REGIONS, WIDTH)), 0).astype(np.float32)
        corner = rng.uniform(0, 200, (REGIONS, 2))
        made.append(
            RegionSample(
                key="",
                size=(640, 480),
                boxes=np.concatenate([corner, corner + 50], 1).astype(np.float32),
                labels=rng.integers(0, 8, REGIONS).astype(np.int16),
                scores=np.sort(rng.random(REGIONS))[::-1].astype(np.float32),
                background=rng.random(REGIONS).astype(np.float32),
                features=features,
            )
        )
    return [RegionSample(**(vars(made[n % DIFFERENT]) | {"key": f"{n:09d}"})) for n in range(SAMPLES)]


def _write_npy(folder: Path, samples: list[RegionSample], half: bool) -> list[str]:
    """Tars with one npy member per field, features in half precision or in sqrt8's bytes."""
    folder.mkdir(exist_ok=True)
    shards = []
    for start in range(0, len(samples), PER_SHARD):
        shards.append(folder / f"{start // PER_SHARD:05d}.tar")
        with shards[-1].open("wb") as stream:
            write_tar(stream, (m for sample in samples[start : start + PER_SHARD] for m in _npy_members(sample, half)))
    return [str(shard) for shard in shards]


def _npy_members(sample: RegionSample, half: bool) -> list[tuple[str, bytes]]:
    fields = {
        "boxes": sample.boxes,
        "labels": sample.labels,
        "scores": sample.scores.astype(np.float16),
        "background": sample.background.astype(np.float16),
    }
    if half:
        fields["features"] = sample.features.astype(np.float16)
    else:
        fields["features"], fields["scales"] = quantise(sample.features)
    members = []
    for name, array in fields.items():
        stream = io.BytesIO()
        np.save(stream, array)
        members.append((f"{sample.key}.{name}.npy", stream.getvalue()))
    return members
