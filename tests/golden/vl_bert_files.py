"""Compute with our VL-BERT what its program's arrays hold, file by file."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import OptimConfig
from model.data.batch import Regions, Words
from model.families.model import VisionLanguageModel
from model.families.vl_bert import VLBertEncoder, geometry
from model.families.vl_bert_names import official_model, their_name
from model.objectives.config import PretrainConfig
from model.objectives.hiding import Replacements
from model.objectives.objective import PretrainBatch, load_objective
from model.objectives.region_distributions import are_distributions
from model.objectives.targets import Targets
from model.training.optim import clip_and_step, make_optimizer, make_schedule
from tests.golden.reference import Comparison, Reference

_PADDING = -1.5
"""Boxes are -2 where there is none."""


@dataclass(frozen=True)
class Sequences:
    """States (B, S, H) that enter the layers, and their mask; rows of pairs, or of text alone."""

    states: Tensor
    mask: Tensor

    def closed_up(self, values: Tensor, width: int) -> Tensor:
        """Values (B, S, ...) without gaps, as the program orders them: zeros behind each row, W in all."""
        found = values.new_zeros(len(values), width, *values.shape[2:])
        for row, (own, there) in enumerate(zip(values, self.mask, strict=True)):
            found[row, : int(there.sum())] = own[there]
        return found


def read_model(file: Reference) -> VisionLanguageModel:
    sep_id, heads = int(file.metadata["sep_id"]), int(file.metadata["num_heads"])
    model = official_model(file.under("w/"), file.name, sep_id, num_heads=heads)
    assert isinstance(model.bert, VLBertEncoder)
    return model


def read_words(ids: Tensor) -> Words:
    return Words(ids, ids > 0)


def read_regions(file: Reference) -> Regions:
    """Row 0 is the whole picture."""
    boxes = file.arrays["in/boxes"]
    features, empty = boxes[:, 1:, 4:], torch.zeros(boxes[:, 1:, 0].shape)
    return Regions(
        features=features,
        scales=empty,
        boxes=boxes[:, 1:, :4],
        sizes=file.arrays["in/im_info"][:, :2],
        labels=empty.long(),
        scores=empty,
        background=empty,
        mask=boxes[:, 1:, 0] > _PADDING,
        whole=boxes[:, 0, 4:],
    )


def gradient_norms(model: VisionLanguageModel, loss: Tensor) -> dict[str, float]:
    """Of every weight that the loss reaches, by the program's names."""
    model.zero_grad()
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {str(their_name(name)): float(gradient.double().norm()) for name, gradient in found.items()}


def _places(model: VisionLanguageModel, words: Words, regions: Regions | None, table: str) -> Tensor:
    """Which row of an embedding table each element adds: all else is taken out, and row n is n."""
    bert = copy.deepcopy(model.bert)
    assert isinstance(bert, VLBertEncoder)
    with torch.no_grad():
        for weight in bert.parameters():
            weight.zero_()
        rows = bert.embeddings.get_submodule(table).weight
        rows.copy_(torch.arange(len(rows)).unsqueeze(1))
        bert.embeddings.LayerNorm = nn.Identity()  # type: ignore[assignment]
        if regions is None:
            return bert.embed_text(words)[..., 0].long()
        return bert.join(bert.embed_words(words), bert.embed_regions(regions, regions.features))[..., 0].long()


def pretraining(file: Reference, ours: Comparison) -> None:
    model, regions = read_model(file), read_regions(file)
    masked = file.arrays["in/mvrc_ops"][:, 1:] == 1
    visual = model.bert.embed_regions(regions, regions.features, masked).states
    present = torch.cat([torch.ones_like(regions.mask[:, :1]), regions.mask], 1)
    ours.output("out/object_visual", visual, present)
    _pretraining(file, ours, model, regions, masked, None)
    _pretraining(file, ours, model, regions, masked, read_words(file.arrays["in/aux_text"]))


def _pretraining(
    file: Reference,
    ours: Comparison,
    model: VisionLanguageModel,
    regions: Regions,
    masked: Tensor,
    text: Words | None,
) -> None:
    """Pairs alone, or with rows of text behind them."""
    name, bert = "single" if text is None else "multi", model.bert
    assert isinstance(bert, VLBertEncoder)
    words = read_words(file.arrays["in/text"])
    sides = bert.embed_words(words), bert.embed_regions(regions, regions.features, masked)
    pairs = Sequences(bert.join(*sides), bert.join_masks(words.mask, regions.mask))
    rows = [pairs]
    if text is not None:
        rows.append(Sequences(bert.embed_text(text), torch.cat([text.mask, text.mask[:, :1]], 1)))
    width = file.arrays[f"out/{name}/embeddings"].shape[1]

    def both(values: list[Tensor]) -> Tensor:
        return torch.cat([one.closed_up(value, width) for one, value in zip(rows, values, strict=True)])

    there = both([one.mask for one in rows])
    ours.output(f"out/{name}/sequence_mask", there.long())
    for array, table in (("position_ids", "position_embeddings"), ("token_type_ids", "token_type_embeddings")):
        found = [_places(model, words, regions, table)]
        found += [] if text is None else [_places(model, text, None, table)]
        ours.output(f"out/{name}/{array}", both(found), there)
    ours.output(f"out/{name}/embeddings", both([one.states for one in rows]), there)
    layers = bert.encoder["layer"]
    for number in range(len(layers)):
        bert.encoder["layer"] = layers[: number + 1]
        last = [bert.run(one.states, one.mask) for one in rows]
        ours.output(f"out/{name}/layer_{number}", both(last), there)
    encoded = bert.split(last[0], words.ids.shape[1], regions.mask.shape[1])
    assert encoded.whole is not None
    objects = torch.cat([encoded.whole.unsqueeze(1), encoded.regions], 1)
    present = torch.cat([torch.ones_like(regions.mask[:, :1]), regions.mask], 1)
    pooled = model.pooler(torch.cat([one[:, 0] for one in last]))
    ours.output(f"out/{name}/pooled", pooled)
    ours.output(f"out/{name}/relationship_logits", model.head("itm")(pooled[: len(words.ids)]))
    ours.output(f"out/{name}/mvrc_logits", model.head("mvrc")(objects), present)

    def word_logits(states: Tensor, of: Words, wide: int) -> tuple[Tensor, Tensor]:
        logits = model.head("cls").get_submodule("predictions")(states, bert.word_table)
        more = wide - of.ids.shape[1]
        return F.pad(logits, (0, 0, 0, more)), F.pad(of.mask, (0, more))

    if text is None:
        ours.output("out/single/text_states", encoded.words, words.mask)
        ours.output("out/single/object_states", objects, present)
        ours.output("out/single/mlm_logits", *word_logits(encoded.words, words, words.ids.shape[1]))
    else:
        wide = file.arrays["out/multi/mlm_logits_pairs"].shape[1]
        ours.output("out/multi/mlm_logits_pairs", *word_logits(encoded.words, words, wide))
        ours.output("out/multi/mlm_logits_text", *word_logits(last[1][:, :-1], text, wide))
    losses = _losses(file, model, words, regions, masked, text)
    for loss, value in losses.items():
        ours.output(f"out/{name}/{loss}", value)
    ours.norms(name, gradient_norms(model, losses["loss"]))


def _losses(
    file: Reference, model: VisionLanguageModel, words: Words, regions: Regions, masked: Tensor, text: Words | None
) -> dict[str, Tensor]:
    """What pretraining minimises: means over the targets of each objective, and their sum."""
    labels, wanted = file.arrays["in/mlm_labels"], file.arrays["in/mvrc_labels"][:, 1:]
    related = file.arrays["in/relationship_label"]
    rows = torch.arange(len(related))
    at, places = (labels >= 0).nonzero(as_tuple=True)
    seen, which = are_distributions(wanted).nonzero(as_tuple=True)
    targets = {
        "mlm": Targets(at, places, labels[at, places]),
        "mvrc": Targets(seen, which, wanted[seen, which]),
        "itm": Targets(rows, torch.zeros_like(rows), related),
    }
    names = {"mlm": "mlm_loss" if text is None else "mlm_loss_pairs", "mvrc": "mvrc_loss", "itm": "relationship_loss"}
    if text is not None:
        alone = file.arrays["in/aux_mlm_labels"]
        at, places = (alone >= 0).nonzero(as_tuple=True)
        targets["mlm-text"], names["mlm-text"] = Targets(at, places, alone[at, places]), "mlm_loss_text"
    none, features = torch.zeros(0, dtype=torch.long), regions.features
    hidden = Replacements(masked, none, none, none, none, none, features[:0, 0], features[:0, 0, 0])
    batch = PretrainBatch(words, regions, hidden, targets, none.sum(), text=text)
    config = PretrainConfig(alignment_weight=0)
    encoded = model.bert(words, regions, features, masked)
    found = {}
    for objective, name in names.items():
        loss, _ = load_objective(objective).loss(model, encoded, batch, targets[objective], config)
        found[name] = loss / len(targets[objective])
    return found | {"loss": torch.stack(list(found.values())).sum()}


def geometries(file: Reference, ours: Comparison) -> None:
    boxes, sizes = file.arrays["in/boxes"], file.arrays["in/sizes"]
    ours.output("out/geometry", geometry(boxes.unsqueeze(1), sizes).squeeze(1))


def optimiser(file: Reference, ours: Comparison) -> None:
    """AdamW as pretraining has it, one parameter for as many steps as there are gradients."""
    gradients, facts = file.arrays["in/gradients"], file.metadata
    holder = nn.Module()
    holder.weight = nn.Parameter(file.arrays["in/start"].clone())
    config = OptimConfig(
        learning_rate=float(facts["rate"]),
        eps=float(facts["adam_eps"]),
        eps_at="uncorrected",
        weight_decay=float(facts["weight_decay"]),
        decay_at="after",
        decays="all",
        schedule="from_one",
        warmup_share=int(facts["warmup_adamw"]) / int(facts["total_adamw"]),
        max_grad_norm=float(facts["clip"]),
    )
    optimizer = make_optimizer(holder, config)
    schedule = make_schedule(optimizer, config, int(facts["total_adamw"]))
    weights, rates = [], []
    for step, gradient in enumerate(gradients, start=1):
        holder.weight.grad = gradient.clone()
        rates.append(optimizer.param_groups[0]["lr"])
        clip_and_step(optimizer, config, step)
        schedule.step()
        weights.append(holder.weight.detach().clone())
    ours.output("out/adamw/rates", torch.tensor(rates))
    ours.output("out/adamw/parameters", torch.stack(weights))
