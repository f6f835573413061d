"""Images in, regions out, in the same order.

Three things happen at once: windows of images are read and decoded, batches of equal shape are detected, and whoever
takes the results does something with them. The detector waits for nobody while it has a batch left.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import Detections, Detector, Prepared
from feature_extraction.pictures import PictureError, decode_picture
from feature_extraction.samples.images import ImageSample
from feature_extraction.samples.regions import RegionSample, check_regions
from feature_extraction.samples.tars import ShardError

logger = logging.getLogger(__name__)

WINDOW_BATCHES = 8
"""Images are grouped by shape within this many batches at a time: enough to fill most batches, little to hold."""
_WINDOWS_AHEAD = 2
"""Windows beyond the one whose results are taken: one to be detected, one to be decoded."""
_LANES_ON_GPU = 2
"""Batches with the detector at once: while one waits for the host to select its regions, the GPU works on the other."""

_LONGEST_DETAIL = 300
_LARGEST_FEATURE = float(np.finfo(np.float16).max)
_DEVICE_ERROR = re.compile(r"CUDA|cuDNN|CUDNN|CUBLAS|HIP error|NCCL|can't allocate memory")
"""In what torch says of a device. A picture that is odd is never told of in these words."""
_PLAIN = np.repeat(np.add.outer(np.arange(96), np.arange(128))[..., None], 3, axis=2).astype(np.uint8)
"""A picture that no detector has trouble with: a slope of grey."""


@dataclass(frozen=True)
class ExtractFailure:
    """An image without regions, and the reason."""

    key: str
    detail: str


class BusyClock:
    """Measures the share of time in which the detector has a batch.

    Use `with clock: ...` around each batch, also from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches = 0
        self._begun = self._since = self._ended = 0.0
        self._busy = 0.0

    def __enter__(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._begun = self._begun or now
            self._since = self._since if self._batches else now
            self._batches += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._batches -= 1
            self._ended = time.monotonic()
            if not self._batches:
                self._busy += self._ended - self._since

    @property
    def share(self) -> float:
        """Busy share of the time since the first batch began, in [0, 1].

        The time ends with the last batch; 1 before there was any.
        """
        return self._busy / (self._ended - self._begun) if self._ended > self._begun else 1.0


def extract_regions(
    samples: Iterable[ImageSample],
    detector: Detector,
    config: ExtractorConfig,
    *,
    num_threads: int = 1,
    clock: BusyClock | None = None,
) -> Iterator[RegionSample | ExtractFailure]:
    """Yield one result per image, in the order of the images.

    Images that are of exactly equal shape once prepared go through the detector together, up to `config.batch_size`;
    a padded batch would change the regions of its smaller images.

    A picture that cannot be decoded, is not of the size its sample states, or of which the detector makes an error or
    something that is not finite, is one failure; the others of its batch are detected one by one. The detector itself
    is at fault where a plain picture fails, too.

    Where a batch does not fit in the GPU's memory, batches are half as large from then on, and the log says so. The
    regions are those of any batch size.

    Args:
        samples: read by another thread, a few windows ahead of the results.
        detector: called by one other thread, or two where it is on a GPU.
        config: batch size; the detector has its own.
        num_threads: that decode and prepare pictures.
        clock: counts how much of its time the detector is busy.

    Raises:
        ValueError: the detector is at fault, or one image is too much for the GPU's memory.
        RuntimeError, MemoryError, OSError: the device, this machine's memory or its disk is.
    """
    stream = iter(samples)
    batches = _Batches(detector, config.batch_size, clock or BusyClock())
    reader = ThreadPoolExecutor(1, "reader")
    decoders = ThreadPoolExecutor(num_threads, "decoder")

    def next_window() -> _Window:
        window = list(islice(stream, WINDOW_BATCHES * config.batch_size))
        prepared = list(decoders.map(lambda sample: _prepare(sample, detector), window))
        failures = {place: one for place, one in enumerate(prepared) if isinstance(one, ExtractFailure)}
        pictures = {place: one for place, one in enumerate(prepared) if isinstance(one, Prepared)}
        return _Window(window, failures, batches.submit(pictures))

    try:
        ahead = deque(reader.submit(next_window) for _ in range(_WINDOWS_AHEAD))
        while (window := ahead.popleft().result()).samples:
            ahead.append(reader.submit(next_window))
            yield from window.results()
    finally:
        for pool in (reader, decoders, batches.lanes):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (reader, decoders, batches.lanes):
            pool.shutdown(wait=True)


def _prepare(sample: ImageSample, detector: Detector) -> Prepared | ExtractFailure:
    try:
        return detector.prepare(decode_picture(sample))
    except PictureError as error:
        return ExtractFailure(sample.key, str(error))
    except Exception as error:  # noqa: BLE001 (decoders and resizers of others raise what they like)

        def prepare_plain() -> None:
            detector.prepare(_PLAIN)

        return ExtractFailure(sample.key, _of_picture(error, prepare_plain))


def _of_picture(error: Exception, try_plain: Callable[[], str | None]) -> str:
    """The message for an error that is the picture's own fault; any other error is raised.

    Args:
        error: what came of it.
        try_plain: does the same with a plain picture, and says what is wrong with what comes of it, if anything.

    Raises:
        ValueError: a plain picture fails as well, so it is the detector's.
        RuntimeError, MemoryError, OSError: it is the machine's.
    """
    if _is_of_machine(error):
        raise error
    try:
        fault = try_plain()
    except Exception as again:
        if _is_of_machine(again):
            raise
        fault = _short(again)
    if fault is not None:
        raise ValueError(
            f"the detector fails on a plain picture, too ({fault}); see that its weights are whole and of this model"
        ) from error
    return _short(error)


def _is_of_machine(error: Exception) -> bool:
    """True for an error of the device, the memory, the disk or a process limit: no picture's fault."""
    if isinstance(error, OSError):
        return error.errno is not None  # Decoders raise OSErrors of their own without a number.
    of_device = isinstance(error, RuntimeError) and _DEVICE_ERROR.search(str(error)) is not None
    return of_device or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:_LONGEST_DETAIL]}"


def _find_fault(found: Detections, size: tuple[int, int]) -> str | None:
    """The first thing in a picture's regions that no shard can hold, or None."""
    try:
        check_regions(_region_sample("", size, found))
    except ShardError as error:
        return str(error).removeprefix("key : ").partition(";")[0]
    if float(np.abs(found.features).max(initial=0)) > _LARGEST_FEATURE:
        return f"a feature is beyond half precision ({_LARGEST_FEATURE:.0f})"
    return None


_Place = tuple[Future[list[Detections | str]], int]
"""The results of a batch, or why there are none of a picture; and the picture's number among them."""


@dataclass(frozen=True)
class _Window:
    """Consecutive samples, with the failure or the coming regions of each by its number."""

    samples: list[ImageSample]
    failures: dict[int, ExtractFailure]
    found: dict[int, _Place]

    def results(self) -> Iterator[RegionSample | ExtractFailure]:
        for number, sample in enumerate(self.samples):
            if number in self.failures:
                yield self.failures[number]
            else:
                batch, place = self.found[number]
                found = batch.result()[place]
                if isinstance(found, str):
                    yield ExtractFailure(sample.key, found)
                else:
                    yield _region_sample(sample.key, sample.size, found)


class _Batches:
    """Batches on their way through the detector, and how large one may be."""

    def __init__(self, detector: Detector, batch_size: int, clock: BusyClock) -> None:
        self._detector, self._limit, self._batch_size, self._clock = detector, batch_size, batch_size, clock
        on_gpu = detector.device.type == "cuda"
        self.lanes = ThreadPoolExecutor(
            _LANES_ON_GPU if on_gpu else 1, "detector", initializer=_begin_lane, initargs=(detector.device,)
        )

    def submit(self, pictures: dict[int, Prepared]) -> dict[int, _Place]:
        """Detect numbered pictures in batches of equal shape, in a fixed order."""
        shapes: dict[tuple[int, ...], list[int]] = {}
        for number, picture in pictures.items():
            shapes.setdefault(picture.pixels.shape, []).append(number)
        found: dict[int, _Place] = {}
        for numbers in shapes.values():
            for start in range(0, len(numbers), self._batch_size):
                batch = numbers[start : start + self._batch_size]
                future = self.lanes.submit(self._detect, [pictures[number] for number in batch])
                found.update({number: (future, place) for place, number in enumerate(batch)})
        return found

    def _detect(self, pictures: list[Prepared]) -> list[Detections | str]:
        found: list[Detections | str] = []
        with self._clock:
            while rest := pictures[len(found) :]:
                found += self._detect_some(rest[: self._limit])
        return found

    def _detect_some(self, pictures: list[Prepared]) -> list[Detections | str]:
        """Regions of each picture, or the reason why it has none.

        Nothing where they are too many for the GPU's memory: then the limit falls.

        Raises:
            ValueError: one picture is too much already, or the detector is at fault.
        """
        height, width, _ = pictures[0].pixels.shape
        try:
            detected = self._detector.detect(pictures)
        except torch.OutOfMemoryError as error:
            if len(pictures) == 1:
                raise ValueError(
                    f"one image of {width}x{height} is too much for the GPU's memory; lower extractor.num_proposals, "
                    "set extractor.precision='bf16', or take a larger GPU"
                ) from error
        except Exception as error:
            if len(pictures) == 1:
                return [_of_picture(error, self._detect_plain)]
            if _is_of_machine(error):
                raise
            return [one for picture in pictures for one in self._detect_some([picture])]
        else:
            return [self._sound(one, picture) for one, picture in zip(detected, pictures, strict=True)]
        self._limit = min(self._limit, len(pictures) // 2)
        logger.warning(
            "%d images of %dx%d are too much for the GPU's memory: %d at a time from here on",
            len(pictures),
            width,
            height,
            self._limit,
        )
        # Only here, when nothing of the failed call is alive any more, can its memory be given back.
        torch.cuda.empty_cache()
        return []

    def _sound(self, found: Detections, picture: Prepared) -> Detections | str:
        """The regions of a picture, or what is wrong with them."""
        fault = _find_fault(found, picture.size)
        return found if fault is None else _of_picture(ValueError(fault), self._detect_plain)

    def _detect_plain(self) -> str | None:
        """The fault in this detector's regions of a plain picture, or None."""
        plain = self._detector.prepare(_PLAIN)
        (found,) = self._detector.detect([plain])
        return _find_fault(found, plain.size)


def _begin_lane(device: torch.device) -> None:
    """Give this thread a CUDA stream of its own.

    So a GPU can work on one batch while regions of another are selected.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # The weights came by another stream, for which this one would not wait.
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _region_sample(key: str, size: tuple[int, int], found: Detections) -> RegionSample:
    return RegionSample(
        key=key,
        size=size,
        boxes=found.boxes,
        labels=found.labels,
        scores=found.scores,
        background=found.background,
        features=found.features,
        top_labels=found.top_labels,
        top_scores=found.top_scores,
        class_scores=found.class_scores,
    )
