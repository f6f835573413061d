"""Random access to a feature set's regions, on a local disk or an object store.

Records have one fixed size, so image i of a shard is arithmetic: no tar is parsed, and bytes go from the file straight
into the rows of a batch (`os.preadv`, by threads). They stay uint8 until the device (`dequantise` in `encoder.py`).
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn, overload

import numpy as np
import numpy.typing as npt
from torch import Tensor

from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.tars import ShardError
from model.config import AdaptiveRegions, Features, LoaderConfig
from model.data.batch import Regions
from model.data.index import Arrays, load_or_make
from model.data.order import Index
from model.data.region_records import (
    HEAD_BYTES,
    Buffers,
    Bytes,
    count_regions,
    decode_class_scores,
    find_bad_class_scores,
    find_bad_value,
    find_fault,
    to_regions,
)
from model.data.remote import connect, fetching
from model.data.shard_cache import ShardCache
from model.data.shards import TAR_HEADER, LocalShards, ShardFile, Shards, read_names
from model.errors import InputError

_NAME_THREADS = 16
_REPORT_SECONDS = 10.0
_log = logging.getLogger(__name__)


class LostShardError(ShardError):
    """A shard went bad while in use and is skipped from now on (on_bad_shard="skip"): make the batch again."""


class Keys(Sequence[str]):
    """The key of every image, decoded on demand."""

    def __init__(self, names: npt.NDArray[np.bytes_]) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        return bytes(self._names[row]).removesuffix(b".rgn").decode()


class FeatureStore:
    """The images of a feature set. Image i is row i: shard after shard, in the manifest's order.

    Attributes:
        names: (N,) tar member of each image, KEY.rgn.
        keys: the same as strings.
        skipped_samples: places in batches that another sample took because theirs lies in a shard that was left out.
        fetch_wait_seconds: how long reading has waited for shards that were not at hand, its threads added up.
    """

    def __init__(
        self,
        folder: str | Path,
        cache_path: str | Path | None = None,
        loader: LoaderConfig | None = None,
        adaptive_regions: AdaptiveRegions | None = None,
    ) -> None:
        """Check all shards by listing the folder, and load or make the index of their keys.

        Args:
            folder: a local folder, or a URI on an object store.
            cache_path: see `Features`.
            adaptive_regions: see `EncoderConfig`; of the encoder that reads these features.

        Raises:
            ShardError: the manifest is absent; with on_bad_shard="stop" also if a shard is missing, of another size
                or not in the manifest's layout.
            InputError: an object store's driver or cache_path is absent, or the cache folder does not do.
        """
        self.folder, self.adaptive_regions = str(folder), adaptive_regions
        self._loader = loader or LoaderConfig()
        self._cache = None if cache_path is None else Path(cache_path)
        self._lock = threading.RLock()
        self._left_out: dict[int, str] = {}
        self._checked: set[int] = set()
        self.skipped_samples = 0
        self.fetch_wait_seconds = 0.0
        self._wait_lock = threading.Lock()
        self._open_folder()
        self.layout = self.manifest.layout
        counts = [entry.samples for entry in self.manifest.shards]
        self._first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        for shard, fault in self._shards.faults().items():
            self._leave_out(shard, fault)
        self.names = self._load_names()
        self.keys = Keys(self.names)
        self._buffers, self._score_buffers, self._noted = Buffers(), Buffers(), False
        self._pool = ThreadPoolExecutor(self._loader.read_threads, thread_name_prefix="read")

    def __len__(self) -> int:
        return int(self._first[-1])

    @cached_property
    def shard_of(self) -> Index:
        """(N,) the shard of each image."""
        return np.repeat(np.arange(len(self._first) - 1), np.diff(self._first))

    @cached_property
    def nameless(self) -> Index:
        """Images without a readable key, because their shard was left out before it was known."""
        return np.flatnonzero(self.names == b"")

    @cached_property
    def region_counts(self) -> Index:
        """(N,) how many regions of each image are read, where `max_regions` is no limit: those of a bad shard at most.

        Made by one pass over the heads of all records, and kept in the cache folder.
        """
        rule = self.adaptive_regions
        identity = {
            "features": self.manifest_sha256,
            "adaptive_regions": "" if rule is None else rule.model_dump_json(),
        }
        counts: Index = load_or_make(self.index_folder, "regions", identity, self._count_regions)["counts"]
        return counts

    @property
    def index_folder(self) -> Path | None:
        """Where tables derived from the keys may be cached; None while some key is unknown."""
        return None if len(self.nameless) else self._cache

    @property
    def lost(self) -> int:
        """Number of shards left out so far."""
        return len(self._left_out)

    def close(self) -> None:
        self._pool.shutdown()
        self._shards.close()

    def expect(self, shards: Sequence[int]) -> None:
        """Have these shards at hand, in this order; they are all that will be read for a while."""
        self._shards.expect(shards)

    def sound(self, shard: int) -> bool:
        """Whether a shard can be used. With on_bad_shard="skip", every record's head is checked when first asked."""
        if self._loader.on_bad_shard == "stop" or shard in self._checked:
            return True
        with self._lock:
            if shard not in self._left_out and shard not in self._checked:
                try:
                    self._check(shard)
                except LostShardError:
                    return False
                self._checked.add(shard)
            return shard not in self._left_out

    def check_class_scores(self) -> None:
        """Log once, where they are an approximation, that class scores are one.

        Raises:
            InputError: the shards hold none.
        """
        if self.layout.class_scores == "none":
            raise InputError(
                f"a loss of this run needs each region's class scores, but the features in {self.folder} hold none; "
                "extract them with extractor.class_scores='all' (or 'top:K', an approximation), or leave that loss out"
            )
        if not self._noted and self.manifest.class_scores_note is not None:
            _log.warning("%s: %s", self.folder, self.manifest.class_scores_note)
        self._noted = True

    def read(self, rows: Sequence[int] | Index, max_regions: int, class_scores: bool = False) -> Regions:
        """Read the first `max_regions` regions of these images, in order; R is the most that one of them has.

        With `adaptive_regions` fewer where fewer score well.

        Args:
            rows: the images.
            max_regions: most regions of an image.
            class_scores: also each region's distribution over the classes, the detector's own or an approximation.

        Raises:
            InputError: class scores are asked for, and the shards hold none.
            LostShardError: a shard was just found to be bad, and is left out from now on.
            ShardError: a shard is bad and on_bad_shard is "stop", or it was left out before.
        """
        if class_scores:
            self.check_class_scores()
        numbers, layout = np.asarray(rows, np.int64), self.layout
        shards = np.searchsorted(self._first, numbers, side="right") - 1
        places = numbers - self._first[shards]
        shape = (len(numbers), min(max_regions, layout.max_regions), layout.feature_dim)
        size = math.prod(shape) * layout.feature_dtype.itemsize
        heads = np.empty((len(numbers), TAR_HEADER + layout.features_offset), np.uint8)
        buffer = self._buffers.take(size)
        self._fill(shards, places, 0, [heads, buffer[:size].reshape(len(numbers), size // max(1, len(numbers)))])
        if (fault := find_fault(heads, self.names[numbers], layout)) is not None:
            slot, what = fault
            self._lose(int(shards[slot]), f"{self._name(int(shards[slot]))}: {what}")
        classes = len(self.manifest.labels)
        fault = find_bad_value(heads, layout, classes)
        if fault is None and class_scores:
            fault = find_bad_class_scores(heads, layout, classes)
        if fault is not None:
            slot, what = fault
            self._lose(
                int(shards[slot]), f"{self._name(int(shards[slot]))}: {self.keys[int(numbers[slot])]} has {what}"
            )
        regions = to_regions(
            heads, self._buffers.lend(buffer, layout.feature_dtype, shape), layout, self.adaptive_regions
        )
        if not class_scores:
            return regions
        return replace(regions, class_scores=self._class_scores(shards, places, heads, regions.mask))

    def _class_scores(self, shards: Index, places: Index, heads: Bytes, mask: Tensor) -> Tensor:
        """The distributions (B, R, 1 + C) of records that have these heads; mask (B, R) says where regions are."""
        layout, (count, width) = self.layout, mask.shape
        shape = (count, width, 1 + len(self.manifest.labels))
        scores = self._score_buffers.lend(self._score_buffers.take(4 * math.prod(shape)), np.dtype(np.float32), shape)
        codes = np.empty((count, width * layout.num_classes), np.uint8)
        if codes.size:
            self._fill(shards, places, TAR_HEADER + layout.class_scores_offset, [codes])
        decode_class_scores(heads, codes, layout, mask, scores)
        return scores

    def _fill(self, shards: Index, places: Index, offset: int, tables: Sequence[Bytes]) -> None:
        """Read a stretch of each record, from this offset in its tar member on, into the rows of these tables."""
        # Read in the order of the disk, so that each thread opens few shards.
        slots = np.lexsort((places, shards))
        shares = np.array_split(slots, max(1, min(self._loader.read_threads, len(slots))))
        if len(shares) == 1:
            self._fill_slots(slots, shards, places, offset, tables)
            return
        tasks = [self._pool.submit(self._fill_slots, share, shards, places, offset, tables) for share in shares]
        failures = [failure for task in tasks if (failure := task.exception()) is not None]
        # The first thread that meets a bad shard loses it; the others find it left out.
        for failure in sorted(failures, key=lambda failure: not isinstance(failure, LostShardError)):
            raise failure

    def _fill_slots(self, slots: Index, shards: Index, places: Index, offset: int, tables: Sequence[Bytes]) -> None:
        stride, current, file = self.layout.tar_bytes, -1, None
        size = sum(table.shape[1] for table in tables)
        for slot in slots.tolist():
            if shards[slot] != current or file is None:
                current = int(shards[slot])
                file = self._open(current)
            self._read_into(file, current, [table[slot] for table in tables], int(places[slot]) * stride + offset, size)

    def _read_into(self, file: ShardFile, shard: int, rows: list[Bytes], offset: int, size: int) -> None:
        try:
            got = os.preadv(file.descriptor, [row.data for row in rows], offset)
        except OSError as error:
            self._lose(shard, f"{self._name(shard)} cannot be read ({error.strerror})")
        if got != size:
            self._lose(shard, f"{self._name(shard)} is cut")

    def _check(self, shard: int) -> None:
        rows = slice(int(self._first[shard]), int(self._first[shard + 1]))
        heads = np.empty((rows.stop - rows.start, HEAD_BYTES), np.uint8)
        file = self._open(shard)
        for place, head in enumerate(heads):
            self._read_into(file, shard, [head], place * self.layout.tar_bytes, HEAD_BYTES)
        if (fault := find_fault(heads, self.names[rows], self.layout)) is not None:
            self._lose(shard, f"{self._name(shard)}: {fault[1]}")

    def _open(self, shard: int) -> ShardFile:
        begun = time.monotonic()
        try:
            return self._shards.open(shard)
        except ShardError as error:
            self._lose(shard, str(error))
        finally:
            with self._wait_lock:
                self.fetch_wait_seconds += time.monotonic() - begun

    def _leave_out(self, shard: int, fault: str) -> None:
        """Leave a bad shard out from now on, or stop if that is unwanted or useless."""
        if self._loader.on_bad_shard == "stop":
            raise ShardError(f"{fault}; extract this shard again, or leave it out with on_bad_shard='skip'")
        with self._lock:
            if shard in self._left_out:
                raise ShardError(f"{fault}; it was left out, but an image of it is needed here: extract it again")
            self._left_out[shard] = fault
            self._checked.discard(shard)
        _log.warning("%s: left out, other samples of its window take the places of its samples", fault)

    def _lose(self, shard: int, fault: str) -> NoReturn:
        """Leave out a shard that was just about to be used."""
        self._leave_out(shard, fault)
        raise LostShardError(fault)

    def _name(self, shard: int) -> str:
        return f"{self.folder}/{self.manifest.shards[shard].name}"

    def _open_folder(self) -> None:
        where = f"{self.folder}/manifest.json"
        unfinished = f"{where} is missing: this feature set is not finished; run `unicoder-vl extract`"
        remote = "://" in self.folder
        try:
            if remote:
                fs, base = connect(self.folder)
                with fetching(where):
                    content = bytes(fs.cat_file(f"{base}/manifest.json"))
            else:
                content = Path(where).read_bytes()
        except FileNotFoundError as error:
            raise ShardError(unfinished) from error
        self.manifest = parse_manifest(content, where)
        self.manifest_sha256 = hashlib.sha256(content).hexdigest()
        self._shards: Shards
        if not remote:
            self._shards = LocalShards(Path(self.folder), self.manifest.shards)
        elif self._cache is None:
            raise InputError(f"{self.folder} is on an object store; set cache_path to a local folder for its shards")
        else:
            self._shards = ShardCache(
                fs, base, self.manifest.shards, self._cache, self._loader.cache_bytes, self._loader.fetch_threads
            )

    def _load_names(self) -> npt.NDArray[np.bytes_]:
        identity = {"features": self.manifest_sha256}
        try:
            return load_or_make(self._cache, "keys", identity, lambda: {"names": self._read_all_names()})["names"]
        except LostShardError:
            # Do not cache it: the next start may find the shard repaired.
            return self._read_names()

    def _read_all_names(self) -> npt.NDArray[np.bytes_]:
        names = self._read_names()
        if self._left_out:
            raise LostShardError(next(iter(self._left_out.values())))
        return names

    def _read_names(self) -> npt.NDArray[np.bytes_]:
        """Read the name of every tar member; empty in shards that are left out, so that no caption finds them.

        Raises:
            ShardError: a member is not where the layout says and on_bad_shard is "stop", or a key comes twice.
        """
        begun = reported = time.monotonic()
        shards = range(len(self.manifest.shards))
        names = []
        with ThreadPoolExecutor(_NAME_THREADS) as pool:
            for shard, found in enumerate(pool.map(self._names_of, shards)):
                names.append(found)
                if time.monotonic() - reported > _REPORT_SECONDS:
                    reported = time.monotonic()
                    _log.info("%s: keys of %d of %d shards read, once", self.folder, shard + 1, len(shards))
        table = np.concatenate(names) if names else np.zeros(0, "S1")
        known = np.sort(table[table != b""])
        twice = known[1:][known[1:] == known[:-1]]
        if len(twice):
            raise ShardError(
                f"{self.folder}: {bytes(twice[0])!r} comes twice, so captions cannot name it; extract again"
            )
        if reported != begun:
            _log.info("%s: keys of %d images read in %.0f s", self.folder, len(table), time.monotonic() - begun)
        return table

    def _count_regions(self) -> Arrays:
        with ThreadPoolExecutor(_NAME_THREADS) as pool:
            counts = list(pool.map(self._regions_of, range(len(self.manifest.shards))))
        return {"counts": np.concatenate(counts) if counts else np.zeros(0, np.int64)}

    def _regions_of(self, shard: int) -> Index:
        layout = self.layout
        if shard not in self._left_out:
            # Without a rule the number is all that is needed, and it is in the first bytes.
            size = (HEAD_BYTES if self.adaptive_regions is None else TAR_HEADER + layout.features_offset) - TAR_HEADER
            try:
                records = self._shards.slices(shard, layout.tar_bytes, TAR_HEADER, size)
            except ShardError as error:
                self._leave_out(shard, str(error))
            else:
                return np.minimum(count_regions(records, layout, self.adaptive_regions), layout.max_regions)
        return np.full(self.manifest.shards[shard].samples, layout.max_regions)

    def _names_of(self, shard: int) -> npt.NDArray[np.bytes_]:
        count = self.manifest.shards[shard].samples
        if shard not in self._left_out:
            try:
                names = read_names(self._shards, shard, self.layout.tar_bytes)
            except ShardError as error:
                self._leave_out(shard, str(error))
                return np.zeros(count, "S1")
            # KEY.rgn, where KEY has no dot.
            dots, lengths = np.char.find(names, b"."), np.char.str_len(names)
            wrong = np.flatnonzero(~np.char.endswith(names, b".rgn") | (dots != lengths - 4))
            if len(wrong) == 0:
                return names.astype(f"S{int(lengths.max(initial=1))}")
            self._leave_out(shard, f"{self._name(shard)}: member {wrong[0]} is not where the layout says")
        return np.zeros(count, "S1")


def open_store(source: Features, adaptive_regions: AdaptiveRegions | None = None) -> FeatureStore:
    """Open the features of a split. Arguments and errors as of `FeatureStore`."""
    return FeatureStore(source.features_path, source.cache_path, source.loader, adaptive_regions)
