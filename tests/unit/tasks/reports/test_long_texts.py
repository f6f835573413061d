"""What a run says of captions that it left out."""

import json

from tasks.reports.long_texts import dropped_captions
from tasks.storage.root import Root


def test_a_run_that_left_captions_out_is_told_with_their_number(tmp_path):
    root = Root(str(tmp_path))
    rows = {
        "pretrain-1": [
            {"step": 1, "learning_rate": 1.0, "dropped_captions": 1234},
            {"step": 2, "validation_loss": 1.0},
        ],
        "pretrain-2": [{"step": 1, "learning_rate": 1.0}],
    }
    for run, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lea'
        root.publish_bytes(f"runs/{run}/metrics.jsonl", text.encode())
    assert dropped_captions(root, ["pretrain-1", "pretrain-2", "gone"]) == [
        "pretrain-1 learnt nothing from 1,234 captions, which are longer than encoder.max_text_tokens"
    ]
