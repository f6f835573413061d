"""The seam of objectives: heads, counts, names and steps follow from the list that is chosen."""

import sys
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError

from model.data.captions import load_captions
from model.data.order import Part
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.families.build import build_model, data_sizes
from model.families.config import HeadConfig
from model.families.model import VisionLanguageModel
from model.objectives import config as objectives_config
from model.objectives.batches import PretrainBatches
from model.objectives.config import OBJECTIVES, PretrainConfig, RegionMasking, WordMasking
from model.objectives.held_out import HeldOutLosses, loss_values
from model.objectives.objective import Objective, chosen_objectives, load_objective, objective_heads
from model.objectives.sum import pretraining_losses
from model.objectives.targets import Targets, states_at
from model.objectives.turns import Turns

OFTEN = {"word_masking": WordMasking(rate=0.5), "region_masking": RegionMasking(rate=0.5, zero_share=1)}


@pytest.fixture
def world(eight_pairs, tiny):
    source, path = eight_pairs
    vocabulary = load_vocabulary(path)
    store = FeatureStore(source.features_path)
    captions = load_captions(source, store)
    return store, captions, tokenize(vocabulary, captions.texts, tiny.max_text_tokens), vocabulary


def make_batches(world, tiny, **changes):
    config = PretrainConfig(**{"steps": 10, "batch_size": 8, **OFTEN, **changes})
    store, captions, tokens, vocabulary = world
    return PretrainBatches(store, captions, tokens, vocabulary, tiny.max_regions, config), config


def test_every_objective_has_its_file_and_says_its_name():
    assert [load_objective(name).name for name in OBJECTIVES] == list(OBJECTIVES)


def test_weights_of_before_are_weights_of_objectives_and_name_the_same_run():
    old = PretrainConfig.model_validate({"word_weight": 2, "matching_weight": 10})
    assert old.objectives == {"mlm": 2, "moc": 1, "vlm": 10}
    assert old == PretrainConfig(objectives={"vlm": 10, "moc": 1, "mlm": 2})
    identity = old.identity()
    assert (identity["word_weight"], identity["label_weight"], identity["matching_weight"]) == (2.0, 1.0, 10.0)
    assert not {"objectives", "combine"} & identity.keys()
    fewer = PretrainConfig(objectives={"mlm": 1}).identity()
    assert fewer["objectives"] == {"mlm": 1.0} and "word_weight" not in fewer
    assert PretrainConfig(combine="draw").identity()["combine"] == "draw"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": {"mlm": 1, "mrsr": 1}}, "there is no objective 'mrsr'; known are mlm, moc, vlm, itm, mrfr, "),
        ({"objectives": {}}, "at least 1"),
        ({"objectives": {"mlm": -1}}, "objectives.mlm"),
        ({"objectives": {"mlm": 0}, "combine": "draw"}, "all 0"),
        ({"word_weight": -1}, "objectives.mlm"),
    ],
)
def test_objectives_that_cannot_be_are_refused_by_name(changes, message):
    with pytest.raises(ValidationError) as raised:
        PretrainConfig.model_validate(changes)
    error = raised.value.errors()[0]
    assert message in f"{'.'.join(map(str, error['loc']))} {error['msg']}"


def test_what_is_not_chosen_is_neither_hidden_nor_predicted_and_has_no_head(world, tiny):
    make, config = make_batches(world, tiny, objectives={"moc": 1.0})
    batch = make(0)
    assert list(batch.targets) == ["moc"] and len(batch.targets["moc"]) == batch.counts.item() > 0
    assert not (batch.words.ids == world[3].mask_id).any() and not batch.missing
    store, _, _, vocabulary = world
    heads = objective_heads(config, data_sizes(store, vocabulary))
    model = build_model(tiny, store, vocabulary, seed=3, heads=heads)
    assert list(model.heads) == ["region_labels"] and not hasattr(model, "cls") and not hasattr(model, "matching")
    losses = pretraining_losses(model, batch, config)
    assert losses.names == ("moc",) and losses.sums.item() > 0
    assert set(loss_values(config)) == {"validation_loss", "validation_moc", "validation_moc_accuracy"}


def test_the_first_weights_of_a_seed_do_not_depend_on_the_heads_that_are_kept(world, tiny):
    store, _, _, vocabulary = world
    whole = build_model(tiny, store, vocabulary, seed=3).state_dict()
    extra = {"answers": HeadConfig(kind="linear", width=5)}
    part = build_model(tiny, store, vocabulary, seed=3, heads=extra).state_dict()
    assert {name for name in whole if name.startswith("bert.")} | {"answers.weight", "answers.bias"} == part.keys()
    assert all(torch.equal(part[name], whole[name]) for name in part if name in whole)
    again = build_model(tiny, store, vocabulary, seed=3, heads=extra | {"more": extra["answers"]}).state_dict()
    assert torch.equal(again["answers.weight"], part["answers.weight"])
    assert not torch.equal(again["more.weight"], part["answers.weight"])


def test_weights_come_in_the_same_order_from_a_checkpoint_so_that_optimiser_states_fit(world, tiny, tmp_path):
    store, _, _, vocabulary = world
    config = PretrainConfig(objectives={"moc": 1, "vlm": 1, "mrfr": 1})
    heads = objective_heads(config, data_sizes(store, vocabulary))
    model = build_model(tiny, store, vocabulary, seed=3, heads=heads)
    model.save_pretrained(tmp_path)
    loaded = VisionLanguageModel.from_pretrained(tmp_path, local_files_only=True, strict=True)
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in model.named_parameters()]


def test_a_drawn_step_has_one_objective_the_same_in_every_part_by_its_share(world, tiny):
    make, config = make_batches(world, tiny, combine="draw", objectives={"mlm": 3, "moc": 1, "vlm": 0})
    turns = Turns(config)
    drawn = [turns(step).active[0].name for step in range(400)]
    assert set(drawn) == {"mlm", "moc"} and 260 < drawn.count("mlm") < 340
    for step in (drawn.index("mlm"), drawn.index("moc")):
        parts = [make(step, Part(number, 4)) for number in range(4)]
        counts = sum(part.counts for part in parts)
        assert torch.equal(counts, make(step).counts)
        assert [bool(count) for count in counts] == [drawn[step] == name for name in ("mlm", "moc", "vlm")]
        masked = (make(step).words.ids == world[3].mask_id).any()
        assert bool(masked) == (drawn[step] == "mlm")
        assert bool(make(step).hidden.zeroed.any()) == (drawn[step] == "moc")


def test_only_steps_of_matching_have_wrong_pairs_where_one_is_drawn(world, tiny):
    make, config = make_batches(world, tiny, combine="draw", objectives={"mlm": 1, "vlm": 1}, matching="paired")
    turns = Turns(config)
    drawn = [turns(step).active[0].name for step in range(20)]
    assert len(make(drawn.index("mlm")).words.ids) == 8
    matching = make(drawn.index("vlm"))
    assert matching.targets["vlm"].values.tolist() == [1, 0] * 8 and not len(matching.targets["mlm"])


def test_validation_of_drawn_objectives_measures_each_as_in_its_own_steps(world, tiny):
    store, captions, tokens, vocabulary = world
    model = build_model(tiny, store, vocabulary, seed=0).eval()
    changes = {"steps": 10, "batch_size": 8, "validation_pairs": 8, **OFTEN}
    both = PretrainConfig(**changes, combine="draw", objectives={"mlm": 1, "moc": 1})
    measured = HeldOutLosses(store, captions, tokens, vocabulary, tiny.max_regions, both)(model, torch.device("cpu"))
    for name in ("mlm", "moc"):
        alone = PretrainConfig(**changes, objectives={name: 1})
        value = HeldOutLosses(store, captions, tokens, vocabulary, tiny.max_regions, alone)(model, torch.device("cpu"))
        assert measured[f"validation_{name}"] == pytest.approx(value[f"validation_{name}"], rel=1e-6)
    assert set(measured) == set(loss_values(both))


@pytest.fixture
def scores_objective(monkeypatch):
    """A fourth objective, of one file: the detector's score of each hidden region, without right and wrong."""

    def targets(draft):
        return Targets.positions((draft.treatments != 0) & draft.learns)

    def loss(model, encoded, batch, targets, config):
        wanted = states_at(batch.regions.scores.unsqueeze(-1), targets)
        found = model.head("region_scores")(states_at(encoded.regions, targets))
        return (found - wanted).square().sum(), None

    made = ModuleType("model.objectives.region_scores")
    made.OBJECTIVE = Objective(
        name="scores",
        targets=targets,
        loss=loss,
        heads=lambda sizes: {"region_scores": HeadConfig(kind="linear", width=1)},
        hides="regions",
        has_accuracy=False,
    )
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setitem(objectives_config.OBJECTIVES, "scores", "region_scores")
    yield made.OBJECTIVE
    load_objective.cache_clear()


def test_a_new_objective_is_one_file_and_one_line(world, tiny, scores_objective):
    make, config = make_batches(world, tiny, objectives={"mlm": 1, "scores": 2})
    store, captions, tokens, vocabulary = world
    assert chosen_objectives(config)[1] is scores_objective
    model = build_model(
        tiny, store, vocabulary, seed=0, heads=objective_heads(config, data_sizes(store, vocabulary))
    ).eval()
    batch = make(0)
    losses = pretraining_losses(model, batch, config)
    encoded = model.bert(batch.words, batch.regions, _features(batch), batch.hidden.zeroed)
    targets = batch.targets["scores"]
    by_hand = sum(
        2 * (model.region_scores(encoded.regions[pair, place]) - batch.regions.scores[pair, place]) ** 2
        for pair, place in zip(targets.pairs, targets.places, strict=True)
    )
    torch.testing.assert_close(losses.sums[1], by_hand.squeeze())
    assert len(targets) == batch.hidden.zeroed.sum() > 0 and losses.correct[1].isnan()
    measured = HeldOutLosses(store, captions, tokens, vocabulary, tiny.max_regions, config)(model, torch.device("cpu"))
    assert measured["validation_scores"] > 0 and "validation_scores_accuracy" not in measured


def _features(batch):
    from model.objectives.hiding import hide_regions

    return hide_regions(batch.regions, batch.hidden)
