"""Compute with our UNITER what its program's arrays hold, file by file."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model.data.batch import Regions, Words
from model.downstream.retrieval.batches import RetrievalBatch
from model.downstream.retrieval.config import FinetuneConfig
from model.downstream.retrieval.hinge import (
    hardest_negatives,
    hardest_places,
    pair_hinges,
    retrieval_losses,
    score_pairs,
)
from model.families.family import Encoded
from model.families.heads import MATCHING
from model.families.model import VisionLanguageModel
from model.families.uniter import box_code
from model.families.uniter_names import official_model, their_name
from model.objectives.alignment import cosine_costs, transport_plan
from model.objectives.config import PretrainConfig
from model.objectives.hiding import Replacements
from model.objectives.objective import PretrainBatch, load_objective
from model.objectives.targets import Targets
from tests.golden.reference import Comparison, Reference

SEP = 102


@dataclass(frozen=True)
class Pairs:
    """The pairs of a batch, and where its joint sequences of S places have their words and regions.

    present (B, S): the places that are there. order (B, S): for each, its row of [T words; R regions].
    """

    words: Words
    regions: Regions
    present: Tensor
    order: Tensor

    def joint(self, words: Tensor, regions: Tensor) -> Tensor:
        """States (B, T, H) and (B, R, H) as the program orders them: (B, S, H)."""
        both = torch.cat([words, regions], 1)
        return both.gather(1, self.order.unsqueeze(-1).expand(-1, -1, both.shape[-1]))


def read_pairs(file: Reference, name: str) -> Pairs:
    """The batch `in/NAME`; a side that all pairs share is stored once."""
    ids, features, codes, present, order = (
        file.arrays[f"in/{name}/{one}"]
        for one in ("input_ids", "img_feat", "img_pos_feat", "attn_masks", "gather_index")
    )
    count, present = len(present), present.bool()
    ids, features, codes = (one.expand(count, *one.shape[1:]) for one in (ids, features, codes))
    tokens, boxes = ids.shape[1], features.shape[1]
    real = torch.zeros(count, max(tokens + boxes, int(order.max()) + 1), dtype=torch.bool)
    real.scatter_(1, order.where(present, 0), True)
    types = {side: file.arrays.get(f"in/{name}/{side}_type_ids") for side in ("txt", "img")}
    empty = torch.zeros(count, boxes)
    regions = Regions(
        features=features,
        scales=empty,
        boxes=codes[..., :4],
        sizes=torch.ones(count, 2),
        labels=empty.long(),
        scores=empty,
        background=empty,
        mask=real[:, tokens : tokens + boxes],
        types=types["img"],
        class_scores=file.arrays.get(f"in/{name}/soft_labels"),
    )
    return Pairs(Words(ids, real[:, :tokens], types["txt"]), regions, present, order.where(present, 0))


def read_model(file: Reference) -> VisionLanguageModel:
    heads = file.config["num_attention_heads"]
    return official_model(file.under("w/"), file.name, SEP, num_heads=heads)


def encode(model: VisionLanguageModel, pairs: Pairs, masked: Tensor | None = None) -> Encoded:
    return model.bert(pairs.words, pairs.regions, pairs.regions.features, masked)


def gradient_norms(model: VisionLanguageModel, loss: Tensor, keep: bool = False) -> dict[str, float]:
    """Of every weight that the loss reaches, by the program's names; `keep` leaves the graph for another loss."""
    model.zero_grad()
    loss.backward(retain_graph=keep)
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {their_name(name): float(gradient.double().norm()) for name, gradient in found.items()}


def objective_loss(
    model: VisionLanguageModel, name: str, pairs: Pairs, targets: Targets, masked: Tensor, config: PretrainConfig
) -> Tensor:
    """What pretraining minimises of one objective: its sum over its targets."""
    none = torch.zeros(0, dtype=torch.long)
    features = pairs.regions.features
    hidden = Replacements(masked, none, none, none, none, none, features[:0, 0], features[:0, 0, 0])
    batch = PretrainBatch(pairs.words, pairs.regions, hidden, {name: targets}, none.sum())
    encoded = model.bert(pairs.words, pairs.regions, features.masked_fill(masked.unsqueeze(-1), 0), masked)
    loss, _ = load_objective(name).loss(model, encoded, batch, targets, config)
    return loss / len(targets)


def pretraining(file: Reference, ours: Comparison) -> None:
    model, pairs = read_model(file), read_pairs(file, "pairs")
    _embeddings(file, ours, model, pairs)
    _layers(ours, model, pairs)
    masked_words(file, ours, model, "mlm")
    hidden_regions(file, ours, model)
    _matching(file, ours, model, pairs)


def _embeddings(file: Reference, ours: Comparison, model: VisionLanguageModel, pairs: Pairs) -> None:
    untyped = replace(pairs, words=replace(pairs.words, types=None), regions=replace(pairs.regions, types=None))
    words, regions = untyped.words, untyped.regions
    masked = file.arrays["in/pairs/img_masks"]
    in_pixels = replace(regions, boxes=file.arrays["in/pairs/boxes"], sizes=file.arrays["in/pairs/sizes"])
    ours.output("out/pairs/txt_emb", model.bert.embed_words(words).states, words.mask)
    ours.output("out/pairs/txt_emb_typed", model.bert.embed_words(pairs.words).states, words.mask)
    ours.output("out/pairs/img_emb", model.bert.embed_regions(in_pixels, regions.features).states, regions.mask)
    for name, given, hidden in (
        ("img_emb_masked", regions, masked),
        ("img_emb_typed", pairs.regions, None),
    ):
        found = model.bert.embed_regions(given, regions.features, hidden).states
        ours.output(f"out/pairs/{name}", found, regions.mask)
    ours.output("in/pairs/img_pos_feat", box_code(in_pixels.boxes, in_pixels.sizes), regions.mask)


def _layers(ours: Comparison, model: VisionLanguageModel, pairs: Pairs) -> None:
    words, regions = replace(pairs.words, types=None), replace(pairs.regions, types=None)
    text, image = model.bert.embed_words(words), model.bert.embed_regions(regions, regions.features)
    ours.output("out/pairs/joint_emb", pairs.joint(text.states, image.states), pairs.present)
    states, mask = model.bert.join(text, image), model.bert.join_masks(text.mask, image.mask)
    layers = model.bert.encoder["layer"]
    for number in range(len(layers)):
        model.bert.encoder["layer"] = layers[: number + 1]
        found = model.bert.split(model.bert.run(states, mask), words.ids.shape[1], regions.mask.shape[1])
        ours.output(f"out/pairs/layer_{number}", pairs.joint(found.words, found.regions), pairs.present)
    ours.output("out/pairs/pooled", model.pooler(found.cls))
    for name, side in (("text_alone", text), ("image_alone", image)):
        ours.output(f"out/pairs/{name}", model.bert.run(side.states, side.mask), side.mask)


def masked_words(file: Reference, ours: Comparison, model: VisionLanguageModel, name: str) -> None:
    pairs = read_pairs(file, name)
    labels = file.arrays[f"in/{name}/txt_labels"]
    at, places = (labels >= 0).nonzero(as_tuple=True)
    head = model.head("cls").get_submodule("predictions")
    logits = head(encode(model, pairs).words[at, places], model.bert.word_table)
    ours.output(f"out/{name}/logits", logits)
    ours.output(f"out/{name}/loss", F.cross_entropy(logits, labels[at, places], reduction="none"))
    targets = Targets(at, places, labels[at, places])
    nothing = torch.zeros_like(pairs.regions.mask)
    loss = objective_loss(model, "mlm", pairs, targets, nothing, PretrainConfig())
    ours.output(f"out/{name}/loss_mean", loss)
    if file.under(f"grad/{name}/"):
        ours.norms(name, gradient_norms(model, loss))


def hidden_regions(file: Reference, ours: Comparison, model: VisionLanguageModel) -> None:
    """Of `in/mrfr`, and of `in/mrc` where the file has one; else these are the same."""
    _regressed_features(file, ours, model)
    name = "mrc" if "in/mrc/img_masks" in file.arrays else "mrfr"
    pairs, masked = read_pairs(file, name), file.arrays[f"in/{name}/img_masks"]
    at, places = masked.nonzero(as_tuple=True)
    given = file.arrays["in/mrc/label_targets"]
    logits = model.head("region_classes")(encode(model, pairs, masked).regions[at, places])
    each = F.kl_div(logits.log_softmax(-1), given, reduction="none")
    labels = 1 + given[:, 1:].argmax(-1)
    ours.output("out/mrc/logits", logits)
    ours.output("out/mrc/loss_kl", each)
    kl = objective_loss(model, "mrc-kl", pairs, Targets(at, places, given), masked, PretrainConfig())
    ours.output("out/mrc/loss_kl_mean", kl)
    if file.under("grad/mrckl/"):
        ours.norms("mrckl", gradient_norms(model, kl))
    if "out/mrc/hard_labels" in file.arrays:
        ours.output("out/mrc/loss_kl_per_region", each.sum(1))
        ours.output("out/mrc/hard_labels", labels)
        ours.output("out/mrc/loss_hard", F.cross_entropy(logits, labels, reduction="none"))
        hard = objective_loss(model, "mrc", pairs, Targets(at, places, labels), masked, PretrainConfig())
        ours.output("out/mrc/loss_hard_mean", hard)
        ours.norms("mrc", gradient_norms(model, hard))


def _regressed_features(file: Reference, ours: Comparison, model: VisionLanguageModel) -> None:
    pairs, masked = read_pairs(file, "mrfr"), file.arrays["in/mrfr/img_masks"]
    at, places = masked.nonzero(as_tuple=True)
    wanted = file.arrays["in/mrfr/feat_targets"]
    states = encode(model, pairs, masked).regions[at, places]
    found = model.head("region_features")(states, model.bert.feature_projection)
    ours.output("out/mrfr/prediction", found)
    ours.output("out/mrfr/loss", (found - wanted).square())
    seen = pairs.regions.features.clone()
    seen[at, places] = wanted
    pairs = replace(pairs, regions=replace(pairs.regions, features=seen))
    loss = objective_loss(model, "mrfr", pairs, Targets(at, places, torch.zeros_like(at)), masked, PretrainConfig())
    ours.output("out/mrfr/loss_mean", loss)
    if file.under("grad/mrfr/"):
        ours.norms("mrfr", gradient_norms(model, loss))
        whole = {their_name(name): weight.grad for name, weight in model.named_parameters()}
        for name in file.under("grad_full/mrfr/"):
            ours.output(f"grad_full/mrfr/{name}", whole[name])


def _matching(file: Reference, ours: Comparison, model: VisionLanguageModel, pairs: Pairs) -> None:
    pairs = replace(pairs, words=replace(pairs.words, types=None), regions=replace(pairs.regions, types=None))
    labels, weight = file.arrays["in/itm/targets"], float(file.metadata["itm_ot_lambda"])
    encoded = encode(model, pairs)
    scores = model.head("itm")(model.pooler(encoded.cls))
    ours.output("out/itm/scores", scores)
    ours.output("out/itm/itm_loss", F.cross_entropy(scores, labels, reduction="none"))
    masks = pairs.words.mask, pairs.regions.mask
    costs = cosine_costs(encoded.words, encoded.regions, *masks)
    plan = transport_plan(costs, *masks)
    distances = (costs.transpose(1, 2) * plan).sum((1, 2))
    right = labels > 0
    for name, found in (
        ("ot_cost", costs),
        ("ot_plan", plan),
        ("ot_distance", distances),
        ("ot_pos", distances[right]),
        ("ot_neg", distances[~right]),
        ("ot_loss", (distances[right].sum() - distances[~right].sum()) / len(labels)),
    ):
        ours.output(f"out/itm/{name}", found)
    nothing, at = torch.zeros_like(pairs.regions.mask), torch.arange(len(labels))
    targets = Targets(at, torch.zeros_like(at), labels)
    for name, gradient, share in (("itm_loss_mean", "itm_alone", 0.0), ("loss", "itm_ot", weight)):
        loss = objective_loss(model, "itm", pairs, targets, nothing, PretrainConfig(alignment_weight=share))
        ours.output(f"out/itm/{name}", loss)
        ours.norms(gradient, gradient_norms(model, loss))


def retrieval(file: Reference, ours: Comparison) -> None:
    model = read_model(file)
    config = FinetuneConfig(
        margin=float(file.metadata["margin"]),
        hardest=int(file.metadata["hard_size"]),
        negatives=10**6,
        mean_hinge_share=1,
    )
    _ranked_groups(file, ours, model, config)
    _started_rank_head(file, ours)
    _hardest(file, ours, model, config, "hard_images")
    _hardest(file, ours, model, config, "hard_texts")


def _ranked_groups(file: Reference, ours: Comparison, model: VisionLanguageModel, config: FinetuneConfig) -> None:
    """A group is a matched pair, its text with a wrong image, a wrong text with its image."""
    pairs = read_pairs(file, "rank")
    ours.output("out/rank/scores", model.score(pairs.words, pairs.regions).unsqueeze(1))
    groups = torch.arange(len(pairs.present)).view(-1, int(file.arrays["in/rank/sample_size"]))[:, [0, 2, 1]]
    batch = RetrievalBatch(pairs.words, pairs.regions, groups, groups, groups.new_zeros(()))
    # The program takes the mean of both hinges of a pair, ours their weighted sum.
    plain = config.model_copy(update={"hardest": None, "text_weight": 0.5, "image_weight": 0.5})
    ours.output("out/rank/loss", pair_hinges(score_pairs(model, batch), batch.is_wrong, plain)[:, [1, 0]])
    loss = retrieval_losses(model, batch, plain, step=0).sums[0] / len(groups)
    ours.output("out/rank/loss_mean", loss)
    ours.norms("rank", gradient_norms(model, loss))


def _started_rank_head(file: Reference, ours: Comparison) -> None:
    """The matching head of finetuning is that of pretraining's second class, whose logit is the zero-shot score."""
    weights = {name: weight for name, weight in file.under("w/").items() if not name.startswith("rank_output")}
    pretrained = official_model(weights, file.name, SEP, num_heads=file.config["num_attention_heads"])
    started = pretrained.with_heads(MATCHING, seed=0)
    for name, weight in started.head("matching").named_parameters():
        ours.output(f"out/init_output/rank_output.{name}", weight)
    pairs = read_pairs(file, "rank")
    for model in (pretrained, started):
        ours.output("out/init_output/scores", model.score(pairs.words, pairs.regions).unsqueeze(1))


def _hardest(file: Reference, ours: Comparison, model: VisionLanguageModel, config: FinetuneConfig, name: str) -> None:
    """One caption and its wrong images, or one image and its wrong captions; the other side has no wrong one."""
    pairs = read_pairs(file, name)
    ours.output(f"out/{name}/scores", model.score(pairs.words, pairs.regions).unsqueeze(1))
    count = len(pairs.present)
    matched, wrong = torch.zeros(1, count - 1, dtype=torch.long), torch.arange(1, count).unsqueeze(0)
    sides = [matched, wrong] if name == "hard_images" else [wrong, matched]
    slots = torch.cat([torch.zeros(1, 1, dtype=torch.long), *sides], 1)
    batch = RetrievalBatch(pairs.words, pairs.regions, slots, slots, torch.tensor(0))
    logits, hardest = score_pairs(model, batch), config.hardest or 1
    captions, images = hardest_places(logits[:, 1:], batch.is_wrong, hardest).chunk(2, 1)
    kept = (images - (count - 1) if name == "hard_images" else captions)[0] + 1
    ours.output(f"out/{name}/hard_places", kept)
    reduced = hardest_negatives(model, batch, pairs_at_once=3, count=hardest)
    hinges = pair_hinges(score_pairs(model, reduced), reduced.is_wrong, config)[0].chunk(2)
    ours.output(f"out/{name}/loss", hinges[1 if name == "hard_images" else 0])
    loss = retrieval_losses(model, batch, config, step=0).sums[0]
    ours.output(f"out/{name}/loss_mean", loss)
    ours.norms(name, gradient_norms(model, loss))
