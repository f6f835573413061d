from __future__ import annotations

import numpy as np

from model.downstream.vcr.measures import Item, vcr_figures

WORKED = [
    # True answer and rationale, chosen answer, rationales given the true answer, and given the chosen one if another.
    ((2, 3), [0.1, 0.2, 0.6, 0.1], [0.1, 0.1, 0.1, 0.7], None),
    ((1, 1), [0.6, 0.2, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]),
    ((0, 2), [0.9, 0.0, 0.1, 0.0], [0.1, 0.5, 0.3, 0.1], None),
    ((3, 0), [0.3, 0.3, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]),
    ((3, 2), [0.1, 0.1, 0.1, 0.7], [0.1, 0.2, 0.4, 0.3], None),
]


def test_rationales_count_given_the_true_answer_and_both_on_the_same_item() -> None:
    items = [Item(f"val-{number}", "a.jpg", *truth) for number, (truth, *_) in enumerate(WORKED)]
    rationales = np.full((5, 4, 4), 0.25)
    for number, ((answer, _), answers, given_truth, given_chosen) in enumerate(WORKED):
        rationales[number, int(np.argmax(answers))] = given_chosen or given_truth
        rationales[number, answer] = given_truth
    found = vcr_figures(items, np.array([answers for _, answers, _, _ in WORKED]), rationales)
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values == {"q_to_a": 3 / 5, "qa_to_r": 4 / 5, "q_to_ar": 2 / 5}  # The product would be .48.
