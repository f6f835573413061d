"""Image shard to feature shard: `regions-NNNNN.tar`, its receipt last.

Whether a shard is done already is decided from its receipt alone, before torch is imported or a process started.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from feature_extraction.config import ExtractorConfig
from feature_extraction.samples.images import read_image_shard
from feature_extraction.samples.regions import encode_regions
from feature_extraction.samples.tars import ShardError, write_tar
from tasks.errors import UserError
from tasks.extractor import ExtractorRecord, extractor_fingerprint
from tasks.features.failed_regions import failure_table
from tasks.features.imports.imported import imported_shard
from tasks.made_from import features_fingerprint
from tasks.records import Receipt, ShardRef, ShardResult, Stage
from tasks.storage import paths
from tasks.storage import root as storage
from tasks.storage.locks import alone
from tasks.storage.root import Root, Stopwatch

if TYPE_CHECKING:
    from feature_extraction.detectors.interface import Detector

logger = logging.getLogger("tasks.extract")

OnProgress = Callable[[Counter[str]], None]
"""Called with the images of the shard that have ended so far, ok and failed: whole numbers, not the news."""


@dataclass(frozen=True)
class ShardPlan:
    """File names and fingerprints of one shard's work, and its number of images."""

    extractor: str
    details: dict[str, Any]
    folder: str
    receipt_path: str
    fingerprint: str
    images: int


def plan_shard(root: Root, ref: ShardRef, config: ExtractorConfig) -> ShardPlan:
    """Plan one shard's extraction: which files, and under which fingerprint.

    Raises:
        UserError: the image shard is not as its receipt says, or the extractor's files cannot be read.
    """
    path = paths.image_receipt_path(ref.dataset, ref.split, ref.shard)
    images = root.read_model(path, Receipt)
    if images is None or root.done(path, images.fingerprint) is None:
        raise UserError(f"image shard {ref} is not complete under {root.uri}; run: unicoder-vl download")
    extractor, details = extractor_fingerprint(config)
    folder = paths.features_folder(extractor, ref.dataset, ref.split)
    return ShardPlan(
        extractor=extractor,
        details=details,
        folder=folder,
        receipt_path=f"{folder}/{paths.region_receipt_name(ref.shard)}",
        fingerprint=features_fingerprint(extractor, images),
        images=images.counts.get("ok", 0),
    )


def finished_shard(root: Root, ref: ShardRef, config: ExtractorConfig) -> ShardResult | None:
    """The shard as an earlier run left it; None where it is to be extracted.

    Raises:
        UserError: as `plan_shard`; or the features are imported ones, and this shard is not among them.
    """
    if config.backend == "imported":
        return imported_shard(root, ref, config.model)
    plan = plan_shard(root, ref, config)
    done = root.done(plan.receipt_path, plan.fingerprint)
    # Without the record, whose labels only the detector knows, one shard is extracted again, and writes it.
    if done is None or not root.exists(paths.extractor_path(plan.extractor)):
        return None
    return ShardResult(receipt=done, skipped=True)


def extract_shard(
    root: Root,
    ref: ShardRef,
    config: ExtractorConfig,
    *,
    load: Callable[[ExtractorConfig], Detector] | None = None,
    num_threads: int = 1,
    on_progress: OnProgress | None = None,
) -> ShardResult:
    """Turn one image shard into a feature shard, in this process; skip a finished one.

    Writes `regions-NNNNN.tar`, one `.rgn` record per image in the order of the keys; `failed-NNNNN.parquet` (key,
    detail) where pictures failed; and the receipt, with counts `ok`, `failed` and `regions`.

    Args:
        root: where everything is.
        ref: the shard.
        config: the extractor.
        load: gives the detector of `config`, perhaps one that was loaded before; None: one is loaded for this shard.
        num_threads: that decode pictures.
        on_progress: told of every image.

    Raises:
        UserError: the image shard is not there, or the extractor cannot be loaded.
        ShardError: the image shard is damaged, or its regions cannot be stored.
        StageError: another process is extracting this shard.
    """
    finished = finished_shard(root, ref, config)
    if finished is not None:
        return finished
    plan = plan_shard(root, ref, config)
    name = f"extract-{plan.extractor[:12]}-{ref.dataset}-{ref.split}-{ref.shard:05d}"
    with alone(root, name, f"extracting shard {ref}"):
        finished = finished_shard(root, ref, config)  # Another process may just have done it.
        return finished or _extract_alone(root, ref, config, plan, load or load_on_device, num_threads, on_progress)


def _extract_alone(
    root: Root,
    ref: ShardRef,
    config: ExtractorConfig,
    plan: ShardPlan,
    load: Callable[[ExtractorConfig], Detector],
    num_threads: int,
    on_progress: OnProgress | None,
) -> ShardResult:
    """Extract a shard that no other process on this machine extracts; see `extract_shard`."""
    from feature_extraction.extract import BusyClock, ExtractFailure, extract_regions

    watch, clock = Stopwatch(), BusyClock()
    detector = load(config)
    _publish_extractor(root, plan, detector)
    _withdraw_manifest(root, plan.extractor, ref)
    layout = config.layout(detector.feature_dim, len(detector.labels))
    counts = Counter(ok=0, failed=0, regions=0)
    failures: list[tuple[str, str]] = []

    def members(images: IO[bytes]) -> Iterator[tuple[str, bytes]]:
        samples = read_image_shard(images, "its image shard")
        last_key = ""
        for result in extract_regions(samples, detector, config, num_threads=num_threads, clock=clock):
            if result.key <= last_key:
                raise ShardError(f"key {result.key} follows {last_key}, so keys are not in order; download it again")
            last_key = result.key
            if isinstance(result, ExtractFailure):
                failures.append((result.key, result.detail))
                counts["failed"] += 1
            else:
                counts["ok"] += 1
                counts["regions"] += len(result.boxes)
                yield f"{result.key}.rgn", encode_regions(result, layout)
            if on_progress is not None:
                on_progress(Counter(ok=counts["ok"], failed=counts["failed"]))

    shard_name = paths.region_shard_name(ref.shard)
    with root.open(paths.image_shard_path(ref.dataset, ref.split, ref.shard)) as images:
        try:
            files = {
                shard_name: root.publish(f"{plan.folder}/{shard_name}", lambda out: write_tar(out, members(images)))
            }
        except ValueError as error:
            raise ShardError(f"cannot extract {ref}: {error}") from error
    failed_name = paths.failed_regions_name(ref.shard)
    # Even an empty table replaces an earlier run's, which would name pictures that are fine now.
    if failures or root.exists(f"{plan.folder}/{failed_name}"):
        files[failed_name] = root.publish_bytes(f"{plan.folder}/{failed_name}", failure_table(failures))
    receipt = Receipt(
        stage=Stage.EXTRACT,
        dataset=ref.dataset,
        split=ref.split,
        shard=ref.shard,
        fingerprint=plan.fingerprint,
        counts=dict(counts),
        files=files,
        seconds=watch.seconds,
        created_at=storage.now(),
    )
    root.publish_model(plan.receipt_path, receipt)
    return ShardResult(receipt=receipt, skipped=False, remark=f"detector busy {clock.share:.0%}")


def load_on_device(config: ExtractorConfig, worker: int = 0, num_workers: int = 1, num_cores: int = 1) -> Detector:
    """Load the detector of one of several workers onto its device.

    On a CPU the number of threads shows in the last bits of the features. The small detector gains nothing from a
    second thread, so it always has one, and its shards are the same bytes for any number of workers. The large
    networks share the cores instead.

    Args:
        config: the extractor; where it leaves the GPU open, the worker takes the one of its number.
        worker: number of the worker, from 0.
        num_workers: of this machine.
        num_cores: cores for this worker.

    Raises:
        UserError: the extractor cannot be loaded.
    """
    import torch

    from feature_extraction.detectors.load import load_detector

    torch.set_num_threads(1 if config.backend == "torchvision" and config.model == "small" else num_cores)
    gpus = torch.cuda.device_count()
    if config.device in ("auto", "cuda") and gpus:
        config = config.model_copy(update={"device": f"cuda:{worker % gpus}"})
        if worker == 0 and num_workers < gpus:
            logger.warning("%d of %d GPUs are used; --workers %d would use all of them", num_workers, gpus, gpus)
    try:
        return load_detector(config)
    except ValueError as error:
        raise UserError(str(error)) from error


def _withdraw_manifest(root: Root, extractor: str, ref: ShardRef) -> None:
    """Remove the list of the split's shards if it has this one; it is written again once all are finished.

    A list without this shard, which could not be made before, stays true.
    """
    path = paths.feature_manifest_path(extractor, ref.dataset, ref.split)
    if root.exists(path) and f'"{paths.region_shard_name(ref.shard)}"'.encode() in root.read_bytes(path):
        root.remove(path)


def _publish_extractor(root: Root, plan: ShardPlan, detector: Detector) -> None:
    """Record the extractor beside its features; every shard's worker would write the same."""
    path = paths.extractor_path(plan.extractor)
    if not root.exists(path):
        record = ExtractorRecord(
            fingerprint=plan.extractor,
            details=plan.details,
            feature_dim=detector.feature_dim,
            labels=detector.labels,
        )
        root.publish_model(path, record)
