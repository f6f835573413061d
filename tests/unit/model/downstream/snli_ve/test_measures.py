from __future__ import annotations

from model.downstream.snli_ve.measures import Hypothesis, snli_ve_figures


def test_accuracy_over_all_and_by_label() -> None:
    hypotheses = [
        Hypothesis("1", "a", "entailment"),
        Hypothesis("2", "a", "neutral"),
        Hypothesis("3", "b", "entailment"),
        Hypothesis("4", "b", "entailment"),
    ]
    found = snli_ve_figures(hypotheses, {"1": "entailment", "2": "entailment", "3": "entailment", "4": "neutral"})
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values == {"accuracy": 0.5, "label/entailment": 2 / 3, "label/neutral": 0.0}
    assert found.images == 2
