"""Batches from warm shards: our reader against WebDataset's usual way, `.decode()` of npy members and a DataLoader."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from feature_extraction.samples import RegionSample, quantise, write_tar
from model.data import FeatureStore
from tests.bench.clock import cpu_cost
from tests.toy import write_feature_set

SAMPLES, PER_SHARD, REGIONS, WIDTH, BATCH = 512, 128, 100, 2048, 64
DIFFERENT = 32
"""Samples made; they repeat under other keys, for a reader does not look at values."""
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
        store.close()
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
