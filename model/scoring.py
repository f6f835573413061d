"""Exact scores of every image with every caption: python -m model.scoring --config job.json (a `ScoreJob`).

Each image and each caption is embedded once; captions of one length share a batch, so nothing is padded but short
region lists; the last layer computes [CLS] alone. No shortlist, no approximation.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model.checkpoint import load_model
from model.command import run_job
from model.config import ScoreJob, ScoringConfig
from model.data import Captions, FeatureStore, load_captions, open_store, pad_words
from model.embeddings import dequantise
from model.encoder import UnicoderVL
from model.fit import check_features
from model.metrics import retrieval_metrics
from model.processes import pick_device
from model.progress import Progress, report
from model.publish import write_whole
from model.tokenizer import TokenTable, load_tokens
from model.training import set_up_torch

SCORES_FORMAT = "scores/1"
_EMBED_IMAGES = 256


@torch.inference_mode()
def score_split(
    model: UnicoderVL,
    store: FeatureStore,
    captions: Captions,
    tokens: TokenTable,
    config: ScoringConfig,
    device: torch.device,
) -> npt.NDArray[np.float32]:
    """Matching logits of all pairs: (images, captions) f32.

    Images are those that have a caption, in the order of the feature store (`captions.images`).
    """
    rows = captions.images
    scores = np.empty((len(rows), len(captions.texts)), np.float32)
    bert = model.bert
    embedded, masks = [], []
    for start in range(0, len(rows), _EMBED_IMAGES):
        regions = store.read(rows[start : start + _EMBED_IMAGES], bert.max_regions).to(device)
        embedded.append(bert.embed_regions(regions, dequantise(regions)))
        masks.append(regions.mask)
    image_states, image_masks = torch.cat(embedded), torch.cat(masks)
    by_length: dict[int, list[int]] = defaultdict(list)
    for number in range(len(tokens)):
        by_length[len(tokens[number])].append(number)
    done, begun = 0, time.monotonic()
    reported = begun
    for numbers in by_length.values():
        words = pad_words([tokens[number] for number in numbers], 0).to(device)
        text, closing = bert.embed_words(words)
        columns, pairs = np.array(numbers), len(rows) * len(numbers)
        for start in range(0, pairs, config.batch_size):
            # Pair p is image p // captions with caption p % captions of this length: a list of them all would be large.
            chunk = torch.arange(start, min(start + config.batch_size, pairs))
            image, word = (chunk // len(numbers)).to(device), (chunk % len(numbers)).to(device)
            mask = bert.join_masks(words.mask[word], image_masks[image])
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                states = bert.join(text[word], closing[word], image_states[image])
                logits = model.match(bert.run(states, mask, cls_only=True)[:, 0])
            scores[image.cpu().numpy(), columns[word.cpu().numpy()]] = logits.float().cpu().numpy()
            done += len(chunk)
            now = time.monotonic()
            if now - reported > 2 or done == scores.size:
                reported = now
                rate = done / max(now - begun, 1e-9)
                report(Progress(stage="score", done=done, total=scores.size, unit="pairs", per_second=rate))
    return scores


def run_scoring(job: ScoreJob) -> int:
    set_up_torch(job.scoring.num_threads)
    device = pick_device(job.scoring.device)
    model, vocabulary = load_model(job.checkpoint_path)
    store = open_store(job.data)
    check_features(model, store, job.checkpoint_path)
    captions = load_captions(job.data, store)
    tokens = load_tokens(vocabulary, captions, model.config.max_text_tokens)
    scores = score_split(model.to(device), store, captions, tokens, job.scoring, device)
    metrics = retrieval_metrics(scores, captions.image_of)
    output = Path(job.output_path)
    output.mkdir(parents=True, exist_ok=True)
    part = output / "scores.part.npz"
    np.savez(
        part,
        format=SCORES_FORMAT,
        scores=scores,
        image_keys=np.array([store.keys[row] for row in captions.images]),
        caption_ids=np.array(captions.ids[:]),
        caption_image=captions.image_of,
    )
    part.replace(output / "scores.npz")
    about = {"format": SCORES_FORMAT, "data": job.data.name}
    write_whole(output / "metrics.json", json.dumps(about | metrics.model_dump(mode="json"), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_job("model.scoring", ScoreJob, run_scoring))
