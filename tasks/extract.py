"""Image shard to feature shard: `regions-NNNNN.tar`, its receipt last, and the feature manifest of a whole split.

Whether a shard is done already is decided from its receipt alone, before torch is imported or a process started.
"""

from __future__ import annotations

import hashlib
import io
import logging
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_extraction.config import RANDOM_WARNING, ExtractorConfig
from feature_extraction.samples import (
    REGION_FORMAT,
    FeatureManifest,
    RegionLayout,
    ShardEntry,
    ShardError,
    encode_regions,
    read_image_shard,
    write_tar,
)
from feature_extraction.vocabulary import read_vocabulary
from tasks import storage
from tasks.errors import UserError
from tasks.features.imported import imported_manifest, imported_shard
from tasks.records import Receipt, Record, ShardRef, ShardResult, Stage, fingerprint
from tasks.storage import Root, Stopwatch
from tasks.workers import WorkerPool

if TYPE_CHECKING:
    from feature_extraction.detector import Detector
    from feature_extraction.extract import ExtractFailure

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
"""Called with (images done, images of the shard)."""

_PACKAGES = {"torchvision": ("torch", "torchvision"), "detectron2": ("torch", "torchvision", "detectron2")}


class ExtractorRecord(Record):
    """What a folder of features was made with, and what its detector is. Written before its first shard."""

    fingerprint: str
    details: dict[str, Any]
    feature_dim: int
    labels: tuple[str, ...]


# --- fingerprint ----------------------------------------------------------------------------------------------------


def extractor_fingerprint(config: ExtractorConfig) -> tuple[str, dict[str, Any]]:
    """What decides the bytes of a feature shard, beside its images. Imports no torch.

    Files count by their content, so moving the weights changes nothing; weights at a URL count by its text. Versions
    are without their local part (`+cpu`), so a training machine with another build of torch finds the features of the
    extracting one.

    Returns:
        The fingerprint, and the details that it is the hash of.

    Raises:
        UserError: weights or vocabulary cannot be read, or the backend's package is not installed.
    """
    if config.backend == "imported":
        return config.model, {"imported": config.model}
    details: dict[str, Any] = {
        "format": REGION_FORMAT,
        "config": config.fingerprinted(),
        "weights_sha256": None,
        "vocabulary_sha256": None,
        "versions": {package: _version(package) for package in _PACKAGES[config.backend]},
    }
    if config.random_seed is not None:
        details["weights"] = f"random:{config.random_seed}"
        details["warning"] = RANDOM_WARNING
    elif config.weights is not None and "://" in config.weights:
        details["weights"] = config.weights
    elif config.weights is not None:
        details["weights_sha256"] = _file_sha256(config.weights, "extractor.weights")
    if config.vocabulary is not None:
        try:
            names = read_vocabulary(Path(config.vocabulary))
        except ValueError as error:
            raise UserError(f"extractor.vocabulary: {error}") from error
        details["vocabulary_sha256"] = hashlib.sha256("\n".join(names).encode()).hexdigest()
    if Path(config.model).is_file():
        details["config"]["model"] = {"sha256": _model_file_sha256(Path(config.model))}
    return fingerprint(details), details


def _file_sha256(path: str, field: str) -> str:
    try:
        status = Path(path).stat()
        return _cached_sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{field} {path} cannot be read ({error.strerror}); give the path of the file") from error


@lru_cache(maxsize=16)
def _cached_sha256(path: str, size: int, modified_ns: int) -> str:
    """Weights are hundreds of megabytes and asked for once per shard, so a file is read again only if it changed."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _model_file_sha256(path: Path) -> str:
    """Digest of a Detectron2 config file and of the files it builds on by `_BASE_`."""
    digests = []
    seen: set[Path] = set()
    while path not in seen:
        seen.add(path)
        digests.append(_file_sha256(str(path), "extractor.model"))
        base = re.search(rb"^_BASE_:\s*[\"']?(.+?)[\"']?\s*$", path.read_bytes(), re.MULTILINE)
        if base is None:
            break
        path = path.parent / base.group(1).decode()
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        if package == "detectron2":
            from feature_extraction.detectron2_network import DETECTRON2_MISSING

            raise UserError(DETECTRON2_MISSING) from error
        raise UserError(f"package {package} is not installed; install this project with its dependencies") from error
    version = distribution.version.partition("+")[0]
    # Every commit of Detectron2 calls itself 0.6; pip and uv note which one it was.
    commit = re.search(r'"commit_id":\s*"([0-9a-f]+)"', distribution.read_text("direct_url.json") or "")
    return f"{version}@{commit.group(1)}" if commit else version


# --- one shard ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Names and fingerprints of one shard's work."""

    extractor: str
    details: dict[str, Any]
    folder: str
    receipt_path: str
    fingerprint: str
    images: int


def extract_shard(
    root: Root, ref: ShardRef, config: ExtractorConfig, on_progress: OnProgress | None = None
) -> ShardResult:
    """Turn one image shard into a feature shard, in this process; one that stands already is left as it is.

    Writes `regions-NNNNN.tar`, one `.rgn` record per image in the order of the keys; `failed-NNNNN.parquet` (key,
    detail) where pictures failed; and the receipt, with counts `ok`, `failed` and `regions`.

    Raises:
        UserError: the image shard is not there, or the extractor cannot be loaded.
        ShardError: the image shard is damaged, or its regions cannot be stored.
    """
    if config.backend == "imported":
        return imported_shard(root, ref, config.model)
    plan = _plan(root, ref, config)
    done = root.done(plan.receipt_path, plan.fingerprint)
    if done is not None:
        return ShardResult(receipt=done, skipped=True)
    watch = Stopwatch()
    detector = _detector(config, plan.extractor)
    _publish_extractor(root, plan, detector)
    num_top = min(config.top_labels, len(detector.labels))
    layout = RegionLayout(config.max_regions, detector.feature_dim, config.encoding, num_top)
    counts = {"ok": 0, "failed": 0, "regions": 0}
    failures: list[ExtractFailure] = []

    def members(images: IO[bytes]) -> Iterator[tuple[str, bytes]]:
        from feature_extraction.extract import ExtractFailure, extract_regions

        last_key = ""
        for result in extract_regions(read_image_shard(images, "its image shard"), detector, config):
            if result.key <= last_key:
                raise ShardError(f"key {result.key} follows {last_key}, so keys are not in order; download it again")
            last_key = result.key
            if isinstance(result, ExtractFailure):
                failures.append(result)
                counts["failed"] += 1
            else:
                counts["ok"] += 1
                counts["regions"] += len(result.boxes)
                yield f"{result.key}.rgn", encode_regions(result, layout)
            if on_progress is not None:
                on_progress(counts["ok"] + counts["failed"], plan.images)

    shard_name = storage.region_shard_name(ref.shard)
    with root.open(storage.image_shard_path(ref.dataset, ref.split, ref.shard)) as images:
        try:
            files = {
                shard_name: root.publish(f"{plan.folder}/{shard_name}", lambda out: write_tar(out, members(images)))
            }
        except ValueError as error:
            raise ShardError(f"cannot extract {ref}: {error}") from error
    failed_name = storage.failed_regions_name(ref.shard)
    # A table that an earlier run left is replaced even by an empty one: it would tell of pictures that are fine now.
    if failures or root.exists(f"{plan.folder}/{failed_name}"):
        files[failed_name] = root.publish_bytes(f"{plan.folder}/{failed_name}", _failure_table(failures))
    receipt = Receipt(
        stage=Stage.EXTRACT,
        dataset=ref.dataset,
        split=ref.split,
        shard=ref.shard,
        fingerprint=plan.fingerprint,
        counts=counts,
        files=files,
        seconds=watch.seconds,
        created_at=storage.now(),
    )
    root.publish_model(plan.receipt_path, receipt)
    logger.info("extract  %s: %d ok, %d failed, %d regions (%.1f s)", ref, *counts.values(), receipt.seconds)
    return ShardResult(receipt=receipt, skipped=False)


def _plan(root: Root, ref: ShardRef, config: ExtractorConfig) -> _Plan:
    """Raises UserError unless the image shard stands as its receipt says."""
    path = storage.image_receipt_path(ref.dataset, ref.split, ref.shard)
    images = root.read_model(path, Receipt)
    if images is None or root.done(path, images.fingerprint) is None:
        raise UserError(f"image shard {ref} is not complete under {root.uri}; run: unicoder-vl download")
    extractor, details = extractor_fingerprint(config)
    folder = storage.features_folder(extractor, ref.dataset, ref.split)
    # Of the tar alone: the outcome table beside it also tells how long each request took, which changes no region.
    pictures = images.files[storage.image_shard_path(ref.dataset, ref.split, ref.shard).rsplit("/", 1)[-1]].sha256
    return _Plan(
        extractor=extractor,
        details=details,
        folder=folder,
        receipt_path=f"{folder}/{storage.region_receipt_name(ref.shard)}",
        fingerprint=fingerprint({"format": REGION_FORMAT, "extractor": extractor, "images": pictures}),
        images=images.counts.get("ok", 0),
    )


def _publish_extractor(root: Root, plan: _Plan, detector: Detector) -> None:
    """Note beside the features what they are; every shard's worker would write the same."""
    path = storage.extractor_path(plan.extractor)
    if not root.exists(path):
        record = ExtractorRecord(
            fingerprint=plan.extractor,
            details=plan.details,
            feature_dim=detector.feature_dim,
            labels=detector.labels,
        )
        root.publish_model(path, record)


def _failure_table(failures: list[ExtractFailure]) -> bytes:
    schema = pa.schema([("key", pa.string()), ("detail", pa.string())], metadata={"format": "failed/1"})
    rows = [{"key": failure.key, "detail": failure.detail} for failure in failures]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer)
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _detector(config: ExtractorConfig, extractor: str) -> Detector:
    """The detector, loaded once per process. `extractor` is its fingerprint: changed files are loaded again.

    On a CPU the number of threads shows in the last bits of the features. The small detector gains nothing from a
    second thread, so it always has one, and its shards are the same bytes for any number of workers. The large
    networks share the cores instead.
    """
    import torch

    from feature_extraction.detector import load_detector

    if config.backend == "torchvision" and config.model == "small":
        torch.set_num_threads(1)
    elif _seat is not None:
        torch.set_num_threads(_seat.num_threads)
    if _seat is not None and config.device in ("auto", "cuda") and torch.cuda.device_count():
        config = config.model_copy(update={"device": f"cuda:{_seat.worker % torch.cuda.device_count()}"})
    try:
        return load_detector(config)
    except ValueError as error:
        raise UserError(str(error)) from error


# --- many shards ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seat:
    """A worker process's place among its siblings."""

    worker: int
    num_threads: int


_seat: _Seat | None = None
"""Set in worker processes only."""


class ExtractorPool(WorkerPool):
    """Worker processes that extract shards, each with its own detector: `with ExtractorPool(2) as pool: ...`.

    A worker shares the cores evenly with its siblings and takes the GPU of its number (modulo their count).
    """

    def __init__(self, max_workers: int) -> None:
        counter = multiprocessing.get_context("spawn").Value("i", 0)
        super().__init__(max_workers, _take_seat, counter, max(1, _num_cores() // max_workers))

    def extract(self, root_uri: str, ref: ShardRef, config: ExtractorConfig) -> Future[ShardResult]:
        """Extract a shard in a worker; see `extract_shard`. One that stands already needs no worker.

        Raises:
            UserError: as `extract_shard`, where that shows without loading the extractor.
        """
        standing = _standing(Root(root_uri), ref, config)
        if standing is not None:
            future: Future[ShardResult] = Future()
            future.set_result(standing)
            return future
        return self.submit(_work, root_uri, ref, config)


def _standing(root: Root, ref: ShardRef, config: ExtractorConfig) -> ShardResult | None:
    if config.backend == "imported":
        return imported_shard(root, ref, config.model)
    plan = _plan(root, ref, config)
    done = root.done(plan.receipt_path, plan.fingerprint)
    return None if done is None else ShardResult(receipt=done, skipped=True)


def _work(root_uri: str, ref: ShardRef, config: ExtractorConfig) -> ShardResult:
    return extract_shard(Root(root_uri), ref, config)


def _take_seat(counter: Synchronized[int], num_threads: int) -> None:
    global _seat
    with counter.get_lock():
        _seat = _Seat(counter.value, num_threads)
        counter.value += 1


def _num_cores() -> int:
    """Cores this process may use: fewer than the machine's in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- the whole split ------------------------------------------------------------------------------------------------


def write_feature_manifest(root: Root, dataset: str, split: str, config: ExtractorConfig) -> FeatureManifest:
    """Publish the list of a split's feature shards, once all of them stand. Readers start from this file.

    Raises:
        UserError: image shards are missing, or have no feature shard made from them with this extractor.
    """
    if config.backend == "imported":
        return imported_manifest(root, dataset, split, config.model)
    shards = _image_shards(root, dataset, split)
    plans = [_plan(root, ref, config) for ref in shards]
    receipts = [root.done(plan.receipt_path, plan.fingerprint) for plan in plans]
    missing = [str(ref.shard) for ref, receipt in zip(shards, receipts, strict=True) if receipt is None]
    if missing:
        some = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise UserError(
            f"{len(missing)} of {len(shards)} shards of {dataset}/{split} have no regions of this extractor "
            f"({some}); run: unicoder-vl extract"
        )
    extractor, details = extractor_fingerprint(config)
    record = root.read_model(storage.extractor_path(extractor), ExtractorRecord)
    if record is None:
        raise UserError(
            f"{root.path(storage.extractor_path(extractor))} is gone; remove its folder and run: unicoder-vl extract"
        )
    manifest = FeatureManifest(
        max_regions=config.max_regions,
        feature_dim=record.feature_dim,
        encoding=config.encoding,
        num_top=min(config.top_labels, len(record.labels)),
        labels=record.labels,
        extractor=extractor,
        extractor_details=details,
        shards=tuple(
            ShardEntry(
                name=storage.region_shard_name(receipt.shard),
                samples=receipt.counts["ok"],
                bytes=receipt.files[storage.region_shard_name(receipt.shard)].bytes,
                sha256=receipt.files[storage.region_shard_name(receipt.shard)].sha256,
            )
            for receipt in receipts
            if receipt is not None
        ),
    )
    root.publish_model(storage.feature_manifest_path(extractor, dataset, split), manifest)
    return manifest


def _image_shards(root: Root, dataset: str, split: str) -> list[ShardRef]:
    """The split's image shards in order. The captions' receipt says that download saw every one of them through."""
    folder = storage.image_receipt_path(dataset, split, 0).rpartition("/")[0]
    found = [re.fullmatch(r"images-(\d{5,})\.json", name) for name in root.names(folder)]
    numbers = sorted(int(match.group(1)) for match in found if match)
    complete = root.exists(storage.captions_receipt_path(dataset, split)) and numbers == list(range(len(numbers)))
    if not numbers or not complete:
        raise UserError(f"images of {dataset}/{split} are not complete under {root.uri}; run: unicoder-vl download")
    return [ShardRef(dataset=dataset, split=split, shard=number) for number in numbers]
