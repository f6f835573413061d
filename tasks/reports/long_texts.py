"""Tell how many captions a training run left out because they are too long (`long_texts: drop`)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from model.progress import DROPPED
from tasks.storage.paths import run_folder
from tasks.storage.root import Root


def dropped_captions(root: Root, runs: Sequence[str]) -> list[str]:
    """A sentence for each run that left any out."""
    found = ((run, _count(root, run)) for run in runs)
    return [
        f"{run} learnt nothing from {count:,} captions, which are longer than encoder.max_text_tokens"
        for run, count in found
        if count
    ]


def _count(root: Root, run: str) -> int:
    """As the run's last whole line of metrics says it."""
    path = f"{run_folder(run)}/metrics.jsonl"
    if not root.exists(path):
        return 0
    for line in reversed(root.read_bytes(path).splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue  # Still being written; a broken line is named where the curves are drawn.
        if isinstance(row, dict) and "learning_rate" in row:  # A validation's lines say nothing of it.
            return int(row.get(DROPPED, 0))
    return 0
