import pytest
import torch

from model.data.feed import Split, feed, split_batch, split_tokens
from model.data.order import Part
from model.downstream.retrieval.batches import RetrievalBatch
from model.errors import InputError


@pytest.mark.parametrize(
    ("batch_size", "device_batch_size", "processes", "parts", "part_size"),
    [
        (192, None, 1, 1, 192),
        (192, None, 4, 1, 48),
        (192, 64, 1, 3, 64),
        (192, 50, 1, 4, 48),
        (192, 20, 4, 3, 16),
        (192, 500, 4, 1, 48),
        (7, 1, 1, 7, 1),
        (6, 5, 1, 2, 3),
    ],
)
def test_a_batch_is_cut_into_the_fewest_equal_parts_that_fit(
    batch_size, device_batch_size, processes, parts, part_size
):
    split = split_batch(batch_size, device_batch_size, processes)
    assert split == Split(processes, parts, part_size)
    assert processes * parts * part_size == batch_size


@pytest.mark.parametrize(
    ("buckets", "device_tokens", "processes", "parts", "part_size"),
    [(16, None, 1, 16, 10_240), (16, 20_000, 4, 4, 10_240), (16, 5_120, 8, 4, 5_120), (2, 4_000, 1, 6, 3_414)],
)
def test_buckets_are_shared_equally_and_cut_into_the_fewest_parts_that_fit(
    buckets, device_tokens, processes, parts, part_size
):
    split = split_tokens(10_240, buckets, device_tokens, processes)
    assert split == Split(processes, parts, part_size, "tokens")
    with pytest.raises(InputError, match=r"buckets=16 cannot be shared equally by 3 processes; set it to 15 or 18"):
        split_tokens(10_240, 16, None, 3)


def test_the_parts_of_all_processes_are_the_batch_once():
    split = split_batch(24, 4, 3)
    parts = [part for rank in range(3) for part in split.of(rank)]
    assert parts == [Part(index, 6) for index in range(6)]


@pytest.mark.parametrize(
    ("batch_size", "device_batch_size", "processes", "sizes"),
    [
        (192, None, 5, "190 or 195, or start 1 or 2 or 3 or 4 processes"),
        (3, None, 4, "set it to 4, or start 1 or 3 processes"),
        (97, 50, 1, "batch_size to 50 or 100"),
        (194, 50, 2, "batch_size to 100 or 200"),
    ],
)
def test_a_batch_that_does_not_come_out_even_is_refused_with_sizes_that_would(
    batch_size, device_batch_size, processes, sizes
):
    with pytest.raises(ValueError, match=sizes):
        split_batch(batch_size, device_batch_size, processes)


def test_a_step_holds_its_parts_in_order_and_their_targets_together():
    asked = []

    def make(step, part):
        asked.append((step, part))
        slots = torch.full((part.index + 1, 3), step)
        return RetrievalBatch(NO_TENSORS, NO_TENSORS, slots, slots, torch.tensor(part.index))

    steps = list(feed(make, split_batch(4, 1, 2).of(1), torch.device("cpu"), 5, 7))
    assert asked == [(5, Part(2, 4)), (5, Part(3, 4)), (6, Part(2, 4)), (6, Part(3, 4))]
    assert [step.targets.tolist() for step in steps] == [[7.0], [7.0]]
    assert [step.missing for step in steps] == [5, 5]
    assert [part.image_slots.tolist() for part in steps[1].take()] == [[[6] * 3] * 3, [[6] * 3] * 4]


class _NoTensors:
    def to(self, device, non_blocking=False):
        return self


NO_TENSORS = _NoTensors()
