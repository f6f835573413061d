"""Compute with our UNITER what its program's arrays of finetuning tasks hold: heads on the encoder's states."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from model.families.grow import grow_types
from model.families.uniter_names import official_model
from tests.golden.reference import Comparison, Reference
from tests.golden.uniter_files import (
    SEP,
    encode,
    gradient_norms,
    hidden_regions,
    masked_words,
    read_model,
    read_pairs,
)


def answers(file: Reference, ours: Comparison, name: str) -> None:
    """VQA and visual entailment: scores of all answers, each by itself right or wrong."""
    model = read_model(file)
    targets = file.arrays[f"in/{name}/targets"]
    logits = model.head("answers")(model.pooler(encode(model, read_pairs(file, name)).cls))
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    total = each.mean() * targets.shape[1]
    for array, found in (("logits", logits), ("loss", each), ("loss_total", total)):
        ours.output(f"out/{name}/{array}", found)
    ours.norms(name, gradient_norms(model, total))


def vqa(file: Reference, ours: Comparison) -> None:
    answers(file, ours, "vqa")


def entailment(file: Reference, ours: Comparison) -> None:
    answers(file, ours, "ve")


def sentence_of_two_images(file: Reference, ours: Comparison) -> None:
    """NLVR2: as rows of a left and a right image, with attention between them, or as one row of both."""
    model, pairs = read_model(file), read_pairs(file, "nlvr2")
    targets, encoded = file.arrays["in/nlvr2/targets"], encode(model, pairs)
    if "pair" in model.heads:
        states, mask = (
            torch.cat([encoded.words, encoded.regions], 1),
            torch.cat([pairs.words.mask, pairs.regions.mask], 1),
        )
        read = model.head("pair")(states[::2], states[1::2], mask[::2], mask[1::2])
    else:
        read = model.pooler(encoded.cls).view(len(targets), -1)
    logits = model.head("truth")(read)
    each = F.cross_entropy(logits, targets, reduction="none")
    for array, found in (("logits", logits), ("loss", each), ("loss_mean", each.mean())):
        ours.output(f"out/nlvr2/{array}", found)
    ours.norms("nlvr2", gradient_norms(model, each.mean()))
    grown_types(file, ours)


def grown_types(file: Reference, ours: Comparison) -> None:
    before, after = file.arrays["extend/type_rows_before"], file.arrays["extend/type_rows_after"]
    weights = file.under("w/") | {"uniter.embeddings.token_type_embeddings.weight": before}
    model = official_model(weights, file.name, SEP, num_heads=file.config["num_attention_heads"])
    grown = grow_types(model, len(after)).bert.embeddings.token_type_embeddings.weight
    ours.output("extend/type_rows_before", grown[: len(before)])
    ours.output("extend/type_rows_after", grown)


def referring(file: Reference, ours: Comparison) -> None:
    """RefCOCO: a score of every region, and of the wrong ones one for the hinge, the best-scored or one at random."""
    model, pairs = read_model(file), read_pairs(file, "re")
    margin, targets = float(file.metadata["margin"]), file.arrays["in/re/targets"]
    real = pairs.regions.mask
    ours.output("in/re/obj_masks", ~real)
    scores = model.head("referred")(encode(model, pairs).regions).squeeze(-1).masked_fill(~real, -10_000)
    chosen = F.cross_entropy(scores, targets[:, 0], reduction="none")
    ours.output("out/re/scores", scores)
    ours.output("out/re/loss_cls", chosen)
    ours.output("out/re/loss_cls_sum", chosen.sum())
    ours.norms("re_cls", gradient_norms(model, chosen.sum()))

    scores = model.head("referred")(encode(model, pairs).regions).squeeze(-1)
    hardest = scores.masked_fill(~real, -torch.inf).scatter(1, targets, -torch.inf).argmax(1)
    # The other one was drawn.
    for name, negative in (("hard", hardest), ("easy", file.arrays["out/re/negative_easy"])):
        ours.output(f"out/re/negative_{name}", negative)
        wrong, right = (torch.sigmoid(scores.gather(1, at)[:, 0]) for at in (negative[:, None], targets))
        hinges = (margin + wrong - right).clamp(min=0)
        ours.output(f"out/re/loss_rank_{name}", hinges)
        ours.output(f"out/re/loss_rank_{name}_sum", hinges.sum())
        if name == "hard":
            norms = gradient_norms(model, hinges.sum(), keep=True)
            ours.norms("re_rank_hard", norms)


def commonsense(file: Reference, ours: Comparison) -> None:
    """VCR: two classes for each choice of answer, or of rationale given the answer; the second ranks the choices."""
    model = read_model(file)
    for name in ("qa", "qar"):
        logits = model.head("choices")(model.pooler(encode(model, read_pairs(file, name)).cls))
        loss = F.cross_entropy(logits, file.arrays[f"in/{name}/targets"][:, 0])
        ours.output(f"out/{name}/logits", logits)
        ours.output(f"out/{name}/scores", logits[:, 1:])
        ours.output(f"out/{name}/loss", loss)
        ours.norms(name, gradient_norms(model, loss))
    logits = model.head("choices")(model.pooler(encode(model, read_pairs(file, "eval20")).cls))
    ours.output("out/eval20/scores", logits[:, 1].unsqueeze(0))
    grown_types(file, ours)


def commonsense_pretraining(file: Reference, ours: Comparison) -> None:
    """Pretraining on VCR itself, with its types and added words."""
    model = read_model(file)
    for name in ("mlm_qa", "mlm_qar"):
        masked_words(file, ours, model, name)
    hidden_regions(file, ours, model)
