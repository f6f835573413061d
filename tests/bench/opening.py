"""Opening a split of 3 million samples: the data is made here, and each opening measured in a process of its own.

python -m tests.bench.opening FOLDER    opens what `make_split` made, prints what it took as JSON
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_extraction.samples.manifest import FeatureManifest, ShardEntry
from feature_extraction.samples.regions import RegionLayout, RegionSample, encode_regions
from feature_extraction.samples.tars import write_tar
from model.config import FeatureSource

SHARDS, PER_SHARD = 2_930, 1_024
SAMPLES = SHARDS * PER_SHARD
BATCH = 192
PARTS = ("store", "captions", "tokens", "order", "first batch")
PIECES, WORDS_A_CAPTION = 30_000, 10
# One narrow region a record: opening looks at names and sizes, and a shard of the real size would take 213 MB.
LAYOUT = RegionLayout(max_regions=1, feature_dim=8, encoding="sqrt8")


def source(folder: Path) -> FeatureSource:
    return FeatureSource(
        features_path=str(folder / "features"),
        captions_path=str(folder / "captions.parquet"),
        name="bench/train",
        cache_path=str(folder / "cache"),
    )


def make_split(folder: Path) -> None:
    """Shards whose members have the names and places of real ones, a caption for each, and a vocabulary."""
    features = folder / "features"
    features.mkdir(parents=True)
    template = _template(features / "template.tar")
    for shard in range(SHARDS):
        keys = np.char.zfill(np.arange(shard * PER_SHARD, (shard + 1) * PER_SHARD).astype("S9"), 9)
        members = template[: PER_SHARD * LAYOUT.tar_bytes].reshape(PER_SHARD, LAYOUT.tar_bytes)
        members[:, :9] = keys.astype("S9").view(np.uint8).reshape(PER_SHARD, 9)
        members[:, 148:156] = np.frombuffer(b" " * 8, np.uint8)
        sums = members[:, :512].sum(1, dtype=np.int64)
        checksums = b"".join(b"%06o\0 " % value for value in sums.tolist())
        members[:, 148:156] = np.frombuffer(checksums, np.uint8).reshape(PER_SHARD, 8)
        template.tofile(features / f"regions-{shard:05d}.tar")
    manifest = FeatureManifest(
        max_regions=LAYOUT.max_regions,
        feature_dim=LAYOUT.feature_dim,
        encoding=LAYOUT.encoding,
        labels=("thing",),
        extractor="e" * 64,
        extractor_details={},
        shards=tuple(
            ShardEntry(name=f"regions-{shard:05d}.tar", samples=PER_SHARD, bytes=len(template), sha256="0" * 64)
            for shard in range(SHARDS)
        ),
    )
    (features / "manifest.json").write_text(manifest.model_dump_json())
    _write_captions(folder)


def _template(path: Path) -> np.ndarray:
    """The bytes of one shard, whose keys are then overwritten. A file, so that it is ours to the last byte."""
    record = encode_regions(
        RegionSample(
            key="",
            size=(640, 480),
            boxes=np.array([[0, 0, 9, 9]], np.float32),
            labels=np.zeros(1, np.int16),
            scores=np.ones(1, np.float32),
            background=np.zeros(1, np.float32),
            features=np.ones((1, LAYOUT.feature_dim), np.float32),
        ),
        LAYOUT,
    )
    with path.open("wb") as stream:
        write_tar(stream, [(f"{number:09d}.rgn", record) for number in range(PER_SHARD)])
    template = np.fromfile(path, np.uint8)
    path.unlink()
    return template


def _write_captions(folder: Path) -> None:
    rng = np.random.default_rng(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = sorted({"".join(rng.choice(list(letters), rng.integers(2, 9))) for _ in range(PIECES)} | set(letters))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    table = np.array(words, object)
    schema = pa.schema([(name, pa.string()) for name in ("caption_id", "image_key", "text", "split")])
    with pq.ParquetWriter(folder / "captions.parquet", schema) as writer:
        for start in range(0, SAMPLES, 100_000):
            stop = min(start + 100_000, SAMPLES)
            texts = table[rng.integers(len(table), size=(stop - start, WORDS_A_CAPTION))]
            keys = [f"{number:09d}" for number in range(start, stop)]
            columns = [keys, keys, [" ".join(row) for row in texts], ["train"] * len(keys)]
            writer.write_table(pa.table(dict(zip(schema.names, columns, strict=True)), schema))


def _open(folder: Path) -> dict[str, float]:
    """Seconds of each part of opening, up to the first batch, and megabytes of memory."""
    import torch

    from model.data.captions import load_captions
    from model.data.order import BatchOrder
    from model.data.store import open_store
    from model.data.tokenizer import load_tokens, load_vocabulary

    torch.set_num_threads(1)
    vocabulary = load_vocabulary(folder / "vocab.txt")
    before, marks = _memory(), [time.perf_counter()]
    store = open_store(source(folder))
    marks.append(time.perf_counter())
    captions = load_captions(source(folder), store)
    marks.append(time.perf_counter())
    tokens = load_tokens(vocabulary, captions, 43)
    marks.append(time.perf_counter())
    rows = captions.image_rows
    order = BatchOrder(0, BATCH, store.shard_of[rows], rows, store=store)
    # In the middle of the third epoch, where a killed run might go on.
    turns = order.step(5 * SAMPLES // (2 * BATCH))
    marks.append(time.perf_counter())
    store.read(rows[[sample for _, sample in turns]], 1)
    assert all(len(tokens[sample]) > 2 for _, sample in turns)
    order.window(*turns[0])
    marks.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    after = _memory()
    return dict(zip(PARTS, np.diff(marks).tolist(), strict=True)) | {
        "total": marks[-1] - marks[0],
        "peak MB": peak - before["Rss"],
        "private MB": after["Anonymous"] - before["Anonymous"],
    }


def _memory() -> dict[str, float]:
    """Megabytes of this process, by kind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    print(json.dumps(_open(Path(sys.argv[1]))))
