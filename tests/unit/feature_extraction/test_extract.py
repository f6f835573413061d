import io
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from feature_extraction import extract
from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import Detections, Image, Prepared, check_shapes
from feature_extraction.extract import BusyClock, ExtractFailure, extract_regions
from feature_extraction.samples.images import ImageSample
from feature_extraction.samples.regions import RegionSample

CONFIG = ExtractorConfig(backend="torchvision", model="small", batch_size=3)


class GreyDetector:
    """Finds one region, the whole picture, whose feature is its mean grey: enough to tell pictures apart."""

    labels = ("picture",)
    feature_dim = 2
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, ...]]] = []

    def prepare(self, image: Image) -> Prepared:
        return Prepared(image, (image.shape[1], image.shape[0]))

    def detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
        height, width = check_shapes(pictures)
        self.calls.append([picture.pixels.shape for picture in pictures])
        one = np.ones(1, np.float32)
        box = np.array([[0, 0, width, height]], np.float32)
        zero = np.zeros(1, np.int16)
        greys = [picture.pixels.mean() for picture in pictures]
        return [Detections(box, zero, one, one * 0, np.full((1, 2), grey, np.float32)) for grey in greys]


def sample(key: str, grey: int, size: tuple[int, int] = (40, 32)) -> ImageSample:
    buffer = io.BytesIO()
    Pillow.new("RGB", size, (grey, grey, grey)).save(buffer, "JPEG", quality=95)
    return ImageSample(key, "caption", "http://example.org/x.jpg", size, "0" * 64, buffer.getvalue())


def cut(whole: ImageSample) -> ImageSample:
    return ImageSample(whole.key, "", "", whole.size, "", whole.jpeg[: len(whole.jpeg) // 2])


def keys(results) -> list[str]:
    return [result.key for result in results]


def test_results_come_in_the_order_of_the_images_though_shapes_are_mixed():
    sizes = [(40, 32), (32, 40), (40, 32), (16, 16), (32, 40), (40, 32), (40, 32)]
    samples = [sample(f"{n:03d}", 20 * n, size) for n, size in enumerate(sizes)]
    detector = GreyDetector()
    results = list(extract_regions(samples, detector, CONFIG))
    assert keys(results) == [one.key for one in samples]
    for n, result in enumerate(results):
        assert isinstance(result, RegionSample)
        assert result.features[0, 0] == pytest.approx(20 * n, abs=2)
        assert result.boxes.tolist() == [[0, 0, *sizes[n]]]
        assert result.size == sizes[n]
    assert sorted(map(len, detector.calls)) == [1, 1, 2, 3]
    assert all(len(set(call)) == 1 for call in detector.calls)


def test_an_endless_stream_is_read_a_window_at_a_time():
    def endless():
        n = 0
        while True:
            yield sample(f"{n:06d}", 100)
            n += 1

    results = extract_regions(endless(), GreyDetector(), CONFIG)
    assert keys(next(results) for _ in range(50)) == [f"{n:06d}" for n in range(50)]


def test_no_images_give_no_regions():
    assert list(extract_regions([], GreyDetector(), CONFIG)) == []


@pytest.mark.parametrize(
    ("broken", "detail"),
    [
        (cut(sample("001", 9)), "Truncated"),
        (ImageSample("001", "", "", (40, 32), "", b"<html>"), "cannot identify"),
        (ImageSample("001", "", "", (41, 32), "", sample("001", 9).jpeg), "40x32, its sample says 41x32"),
    ],
    ids=["cut", "not-an-image", "other-size"],
)
def test_a_broken_picture_is_one_failure_among_good_ones(broken, detail):
    results = list(extract_regions([sample("000", 10), broken, sample("002", 30)], GreyDetector(), CONFIG))
    assert keys(results) == ["000", "001", "002"]
    assert isinstance(results[1], ExtractFailure)
    assert detail in results[1].detail
    assert isinstance(results[0], RegionSample)
    assert isinstance(results[2], RegionSample)


def test_an_error_of_the_detector_is_not_taken_for_a_broken_picture():
    class Broken(GreyDetector):
        def detect(self, pictures):
            raise ValueError("weights are broken")

    with pytest.raises(ValueError, match="weights are broken"):
        list(extract_regions([sample("000", 10)], Broken(), CONFIG))


class Particular(GreyDetector):
    """Does not take pictures that are darker than 50, or wider than 1,000 pixels, each in a way of its own."""

    def prepare(self, image: Image) -> Prepared:
        if image.shape[1] > 1000:
            raise RuntimeError("Input and output sizes should be greater than 0\nand so on")
        return super().prepare(image)

    def detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
        if any(picture.pixels.mean() < 50 for picture in pictures):
            raise IndexError("too dark")
        return super().detect(pictures)


def test_any_error_of_one_picture_is_one_failure_and_its_batch_is_detected_one_by_one():
    samples = [sample("000", 100), sample("001", 20), sample("002", 200), sample("003", 90, (2000, 8))]
    detector = Particular()
    results = list(extract_regions(samples, detector, CONFIG))
    assert [result.detail for result in results if isinstance(result, ExtractFailure)] == [
        "IndexError: too dark",
        "RuntimeError: Input and output sizes should be greater than 0",
    ]
    assert keys(results) == keys(samples)
    assert [round(result.features[0, 0]) for result in results if isinstance(result, RegionSample)] == [100, 200]


@pytest.mark.parametrize("wrong", ["features", "boxes", "scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 70000.0])
def test_regions_that_no_shard_can_hold_are_one_failure_among_the_good_ones_of_its_batch(wrong, value):
    class Odd(GreyDetector):
        def detect(self, pictures):
            found = super().detect(pictures)
            return [
                replace(one, **{wrong: np.full_like(getattr(one, wrong), value)})
                if picture.pixels.mean() < 50 and (wrong != "boxes" or not np.isfinite(value))
                else replace(one, features=one.features * value)
                if picture.pixels.mean() < 50
                else one
                for one, picture in zip(found, pictures, strict=True)
            ]

    results = list(extract_regions([sample("000", 100), sample("001", 20), sample("002", 200)], Odd(), CONFIG))
    assert [isinstance(result, ExtractFailure) for result in results] == [False, True, False]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        MemoryError("of the host"),
        OSError(28, "No space left on device"),
    ],
    ids=["device", "memory", "disk"],
)
@pytest.mark.parametrize("step", ["prepare", "detect"])
def test_an_error_of_the_machine_is_no_pictures(error, step):
    class Ill(GreyDetector):
        def prepare(self, image):
            if step == "prepare":
                raise error
            return super().prepare(image)

        def detect(self, pictures):
            raise error

    with pytest.raises(type(error)):
        list(extract_regions([sample("000", 10), sample("001", 20)], Ill(), CONFIG))


def test_a_detector_of_broken_weights_is_told_from_broken_pictures():
    class NotANumber(GreyDetector):
        def detect(self, pictures):
            return [replace(one, features=one.features * np.nan) for one in super().detect(pictures)]

    with pytest.raises(ValueError, match=r"fails on a plain picture, too \(a box or feature is not finite\); see that"):
        list(extract_regions([sample("000", 10), sample("001", 20)], NotANumber(), CONFIG))


class SmallMemory(GreyDetector):
    """Holds at most `room` pictures at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
        found = super().detect(pictures)
        if len(pictures) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return found


def test_where_memory_is_short_batches_are_halved_and_stay_so(caplog):
    samples = [sample(f"{n:03d}", 10 * n) for n in range(20)]
    detector = SmallMemory(room=2)
    with caplog.at_level(logging.WARNING):
        results = list(extract_regions(samples, detector, CONFIG.model_copy(update={"batch_size": 8})))
    assert keys(results) == [one.key for one in samples]
    assert [round(result.features[0, 0] / 10) for result in results] == list(range(20))
    assert [len(call) for call in detector.calls] == [8, 4] + [2] * 10
    assert "8 images of 40x32 are too much for the GPU's memory: 4 at a time from here on" in caplog.text
    assert caplog.text.count("too much") == 2


def test_an_image_that_does_not_fit_alone_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match=r"one image of 40x32 is too much .* lower extractor.num_proposals"):
        list(extract_regions([sample("000", 10), sample("001", 20)], SmallMemory(room=0), CONFIG))


def test_top_labels_reach_the_sample():
    class Tops(GreyDetector):
        def detect(self, pictures):
            tops = {"top_labels": np.array([[4, 2]], np.int16), "top_scores": np.array([[0.5, 0.25]], np.float32)}
            return [replace(found, **tops) for found in super().detect(pictures)]

    (result,) = extract_regions([sample("000", 10)], Tops(), CONFIG)
    assert isinstance(result, RegionSample)
    assert result.top_labels is not None
    assert result.top_scores is not None
    assert (result.top_labels.tolist(), result.top_scores.tolist()) == ([[4, 2]], [[0.5, 0.25]])


class HeldDetector(GreyDetector):
    """Waits before each batch until it is let go on, and tells how many batches have come."""

    def __init__(self) -> None:
        super().__init__()
        self.come, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
        self.come.release()
        assert self.go_on.acquire(timeout=20)
        return super().detect(pictures)


def test_pictures_are_read_ahead_while_the_detector_works_and_no_further():
    read: list[int] = []

    def stream():
        for number in range(1000):
            read.append(number)
            yield sample(f"{number:06d}", 100)

    detector = HeldDetector()
    results = extract_regions(stream(), detector, CONFIG)
    first = threading.Thread(target=lambda: next(results))
    first.start()
    assert detector.come.acquire(timeout=20)
    window = extract.WINDOW_BATCHES * CONFIG.batch_size
    for _ in range(200):
        if len(read) == 3 * window:
            break
        time.sleep(0.02)
    time.sleep(0.1)
    assert len(read) == 3 * window  # the one whose results are taken, and two ahead
    for _ in range(1000):
        detector.go_on.release()
    first.join(20)
    results.close()


def test_the_detector_works_on_while_results_are_not_taken():
    detector = HeldDetector()
    for _ in range(1000):
        detector.go_on.release()
    results = extract_regions([sample(f"{n:03d}", n) for n in range(72)], detector, CONFIG)
    next(results)
    for _ in range(24):  # All three windows of eight batches, though a single result was taken.
        assert detector.come.acquire(timeout=20)
    assert keys(results) == [f"{n:03d}" for n in range(1, 72)]


def test_leaving_early_ends_every_thread():
    before = threading.active_count()
    results = extract_regions([sample(f"{n:03d}", n) for n in range(200)], GreyDetector(), CONFIG, num_threads=3)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_two_batches_are_with_a_detector_on_a_gpu_and_results_keep_their_order(monkeypatch):
    monkeypatch.setattr(extract, "_begin_lane", lambda device: None)
    both = threading.Barrier(2)

    class OnGpu(GreyDetector):
        device = torch.device("cuda:0")

        def detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
            both.wait(20)
            return super().detect(pictures)

    samples = [sample(f"{n:03d}", n) for n in range(0, 240, 10)]
    results = list(extract_regions(samples, OnGpu(), CONFIG, num_threads=2))
    assert keys(results) == keys(samples)
    assert [round(result.features[0, 0] / 10) for result in results] == list(range(24))


def test_the_clock_tells_which_share_of_its_time_the_detector_has_a_batch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(extract.time, "monotonic", lambda: now[0])
    clock = BusyClock()
    assert clock.share == 1.0

    def after(seconds: float) -> None:
        now[0] += seconds

    after(5)
    with clock:
        after(2)
        with clock:  # another lane
            after(1)
        after(1)
    after(3)
    with clock:
        after(3)
    assert clock.share == pytest.approx(7 / 10)
