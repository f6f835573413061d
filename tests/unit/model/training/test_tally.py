import pytest
import torch

from model.training.losses import LossSums
from model.training.processes import Processes
from model.training.tally import Tally

ALONE = Processes(0, 1, torch.device("cpu"))


def sums(*values: float) -> LossSums:
    """Two losses: their sums, then how many were right."""
    numbers = torch.tensor(values)
    return LossSums(("words", "labels"), numbers[:2], numbers[2:])


def test_means_are_per_target_over_parts_and_steps():
    tally = Tally(ALONE)
    tally.add([sums(6.0, 1.0, 1.0, 0.0), sums(2.0, 0.0, 1.0, 0.0)], torch.tensor([4.0, 1.0]), torch.tensor(3.0))
    tally.add([sums(4.0, 0.0, 1.0, 0.0)], torch.tensor([2.0, 0.0]), torch.tensor(5.0))
    means, skipped, in_row = tally.take()
    expected = {"words": 12 / 6, "labels": 1.0, "words_accuracy": 3 / 6, "labels_accuracy": 0.0}
    assert means == pytest.approx(expected | {"loss": 3.0, "gradient_norm": 4.0})
    assert (skipped, in_row) == (0, 0)


def test_a_task_without_targets_is_absent():
    tally = Tally(ALONE)
    tally.add([sums(6.0, 0.0, 1.0, 0.0)], torch.tensor([3.0, 0.0]), torch.tensor(1.0))
    assert set(tally.take()[0]) == {"loss", "words", "words_accuracy", "gradient_norm"}


def test_skipped_steps_count_as_such_only_and_the_longest_row_is_remembered():
    tally = Tally(ALONE)
    good, bad = torch.tensor(2.0), torch.tensor(float("nan"))
    for norm in (good, bad, bad):
        value = 1.0 if norm is good else float("inf")
        tally.add([sums(value, value, 0.0, 0.0)], torch.ones(2), norm)
    means, skipped, in_row = tally.take()
    assert (means["words"], means["gradient_norm"], skipped, in_row) == (1.0, 2.0, 2, 2)
    for norm in (bad, good, bad):
        tally.add([sums(3.0, 3.0, 0.0, 0.0)], torch.ones(2), norm)
    means, skipped, in_row = tally.take()
    assert (means["words"], skipped, in_row) == (3.0, 2, 3), "the row goes on over the end of an interval"


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interval_goes_on_from_a_checkpoint(processes):
    tally, resumed = Tally(ALONE), [Tally(Processes(rank, processes, ALONE.device)) for rank in range(processes)]
    parts = [sums(6.0, 1.0, 1.0, 0.0), sums(2.0, 0.0, 1.0, 0.0)]
    tally.add(parts, torch.tensor([4.0, 1.0]), torch.tensor(3.0))
    tally.add(parts, torch.ones(2), torch.tensor(float("nan")))
    for other in resumed:
        other.restore(tally.state())
    assert torch.equal(sum(other._own for other in resumed), tally._own)
    tally.add(parts, torch.tensor([4.0, 1.0]), torch.tensor(3.0))
    resumed[0].add(parts, torch.tensor([4.0, 1.0]), torch.tensor(3.0))
    resumed[0]._processes = ALONE
    assert resumed[0].take() == tally.take()


def test_an_interval_of_skipped_steps_has_no_means():
    tally = Tally(ALONE)
    tally.add([sums(1.0, 1.0, 0.0, 0.0)], torch.ones(2), torch.tensor(float("inf")))
    assert tally.take() == ({}, 1, 1)
