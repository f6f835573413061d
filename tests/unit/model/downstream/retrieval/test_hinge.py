import math

import pytest
import torch

from model.data.batch import pad_words
from model.data.captions import load_captions
from model.data.order import Part
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary, tokenize
from model.downstream.retrieval.batches import RetrievalBatches
from model.downstream.retrieval.config import FinetuneConfig
from model.downstream.retrieval.hinge import (
    hardest_negatives,
    hardest_places,
    hinge_losses,
    retrieval_losses,
    score_pairs,
)
from model.families.build import build_model

LOGITS = torch.tensor([[1.0, 0.8, 0.2, 0.0, 1.1]])
"""One pair: itself, two wrong captions, two wrong images."""
ALL_WRONG = torch.ones(1, 4, dtype=torch.bool)


def config(**changes) -> FinetuneConfig:
    return FinetuneConfig(**{"score": "logit", "margin": 0.5, "negatives": 2, **changes})


def test_hardest_hinge_by_hand():
    # captions: .5-1+.8=.3, .5-1+.2<0; images: .5-1+0<0, .5-1+1.1=.6
    assert hinge_losses(LOGITS, ALL_WRONG, config()).item() == pytest.approx(0.3 + 0.6)
    weighted = config(text_weight=1.0, image_weight=1.5)
    assert hinge_losses(LOGITS, ALL_WRONG, weighted).item() == pytest.approx(0.3 + 1.5 * 0.6)


def test_mean_hinge_by_hand():
    assert hinge_losses(LOGITS, ALL_WRONG, config(), average=True).item() == pytest.approx(0.15 + 0.3)


def test_what_is_no_negative_adds_nothing_and_is_not_averaged_over():
    first_only = torch.tensor([[True, False, True, False]])
    assert hinge_losses(LOGITS, first_only, config()).item() == pytest.approx(0.3)
    assert hinge_losses(LOGITS, first_only, config(), average=True).item() == pytest.approx(0.3)
    images_only = torch.tensor([[False, False, True, True]])
    assert hinge_losses(LOGITS, images_only, config()).item() == pytest.approx(0.6)
    for average in (False, True):
        assert hinge_losses(LOGITS, ~ALL_WRONG, config(), average).item() == 0


def test_sigmoid_hinge_by_hand():
    s = torch.sigmoid(LOGITS)[0].tolist()
    expected = max(0, 0.2 - s[0] + s[1]) + max(0, 0.2 - s[0] + s[4])
    assert hinge_losses(LOGITS, ALL_WRONG, config(score="sigmoid", margin=0.2)).item() == pytest.approx(expected)


def test_one_negative_a_side_is_uniters_loss():
    """UNITER (arXiv:1909.11740): for each pair, one wrong caption and one wrong image, margin .2, sigmoid scores."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(20, 3)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = [
        sum(max(0.0, 0.2 + sigmoid(wrong) - sigmoid(right)) for wrong in negatives)
        for right, *negatives in logits.tolist()
    ]
    one = FinetuneConfig(negatives=1)
    assert (one.score, one.margin, one.text_weight, one.image_weight) == ("sigmoid", 0.2, 1, 1)
    assert hinge_losses(logits, torch.ones(20, 2, dtype=torch.bool), one).tolist() == pytest.approx(expected, abs=1e-6)


def test_hardest_of_random_batches_equals_brute_force():
    torch.manual_seed(0)
    logits, is_wrong = torch.randn(50, 7), torch.rand(50, 6) < 0.7
    expected = [
        sum(
            max([0.5 - row[0] + row[1 + n] for n in places if wrong[n] and 0.5 - row[0] + row[1 + n] > 0], default=0)
            for places in (range(3), range(3, 6))
        )
        for row, wrong in zip(logits.tolist(), is_wrong.tolist(), strict=True)
    ]
    assert hinge_losses(logits, is_wrong, config(negatives=3)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def split(make_world):
    """Six images, the first with seven captions; images 0 and 2, and 1, 3 and 5, share a text."""
    labels = [[0, 1], [2, 3, 4], [5], [6, 7], [1, 2], [3]]
    texts = [
        ["red", "red blue", "blue red", "blue", "red red", "blue blue", "red cat"],
        ["green cat dog", "cat"],
        ["bird", "red blue"],
        ["tree car", "cat"],
        ["blue green", "green"],
        ["cat"],
    ]
    source, path = make_world(labels, [(image, text) for image, row in enumerate(texts) for text in row])
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    return store, captions, tokenize(vocabulary, captions.texts, 8), vocabulary


@pytest.fixture
def model(split, tiny):
    """With dropout, in training."""
    store, _, _, vocabulary = split
    return build_model(tiny.model_copy(update={"dropout": 0.2}), store, vocabulary, seed=1).train()


def batches(split, **changes) -> RetrievalBatches:
    store, captions, tokens, vocabulary = split
    return RetrievalBatches(store, captions, tokens, vocabulary, 4, config(**changes))


def test_gathered_scores_equal_pair_by_pair_scores(split, model):
    batch = batches(split, batch_size=3)(0)
    together = score_pairs(model.eval(), batch)
    for slot in range(3):
        for column in range(5):
            words = batch.words.take(batch.word_slots[slot, column : column + 1])
            regions = batch.regions.take(batch.image_slots[slot, column : column + 1])
            torch.testing.assert_close(together[slot, column], model.score(words, regions)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("index", "count"), [(0, 1), (0, 2), (1, 2), (2, 6)])
def test_hardest_in_batch_equals_brute_force(split, model, index, count):
    """The slow twin scores every image and caption of the batch alone, and looks up what is true in the split."""
    store, captions, tokens, vocabulary = split
    make = batches(split, batch_size=6, negatives_from="batch")
    for step in range(4):
        samples = [sample for _, sample in make._order.step(step)]
        mine = samples[index * 6 // count :][: 6 // count]
        found = hardest_negatives(model, make(step, Part(index, count)), 5)
        assert model.training
        model.eval()

        def score(image: int, caption: int) -> float:
            words = pad_words([tokens[caption]], vocabulary.pad_id)
            with torch.no_grad():
                return float(model.score(words, store.read([image], 4))[0])

        def is_true(image: int, caption: int) -> bool:
            rows = [row for row, own in enumerate(captions.image_rows.tolist()) if own == image]
            return any(captions.texts[row] == captions.texts[caption] for row in rows)

        scores, is_wrong = score_pairs(model, found).detach(), found.is_wrong
        for slot, sample in enumerate(mine):
            own = int(captions.image_rows[sample])
            wrong_captions = [score(own, other) for other in samples if not is_true(own, other)]
            images = {int(captions.image_rows[other]) for other in samples}
            wrong_images = [score(image, sample) for image in images if not is_true(image, sample)]
            expected = [max(side, default=-math.inf) for side in (wrong_captions, wrong_images)]
            assert is_wrong[slot].tolist() == [bool(wrong_captions), bool(wrong_images)]
            kept = scores[slot, 1:].masked_fill(~is_wrong[slot], -torch.inf)
            assert kept.tolist() == pytest.approx(expected, abs=1e-5)
            assert float(scores[slot, 0]) == pytest.approx(score(own, sample), abs=1e-5)
        model.train()


def test_mining_takes_no_random_numbers_and_any_number_of_pairs_at_once(split, model):
    batch = batches(split, batch_size=6, negatives_from="batch")(0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = [hardest_negatives(model, batch, size) for size in (1, 7, 1000)]
    assert torch.equal(torch.get_rng_state(), before)
    for other in found[1:]:
        assert torch.equal(other.image_slots, found[0].image_slots)
        assert torch.equal(other.word_slots, found[0].word_slots)
    assert len(found[0].regions.mask) == len(found[0].image_slots.unique()), "nothing is embedded in vain"


def gradients(model, make, steps, parts: int, settings: FinetuneConfig, bf16: bool = False) -> list[torch.Tensor]:
    """Of each step, added over its parts."""
    found = []
    for step in range(steps):
        model.zero_grad()
        for index in range(parts):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                sums = retrieval_losses(model, make(step, Part(index, parts)), settings, step)
            sums.sums.sum().backward()
        parameters = [p for name, p in model.named_parameters() if not name.startswith(("cls", "region_labels"))]
        assert all(p.grad is not None for p in parameters), "processes that add gradients would wait for one"
        found.append(torch.cat([p.grad.flatten() for p in parameters]))
    return found


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_gradients_do_not_depend_on_how_the_batch_is_split(split, tiny, share):
    model = build_model(tiny, split[0], split[3], seed=1).train()
    fields = {"batch_size": 6, "negatives_from": "batch", "steps": 4, "mean_hinge_share": share}
    make, settings = batches(split, **fields), config(**fields)
    whole = gradients(model, make, 4, 1, settings)
    assert all(step.abs().max() > 0 for step in whole)
    for parts in (2, 3, 6):
        for one, other in zip(whole, gradients(model, make, 4, parts, settings), strict=True):
            assert float((other - one).abs().max()) < 1e-5 * float(one.abs().max())


def test_mining_in_half_precision_leaves_every_weight_its_gradient(split, tiny):
    """Autocast keeps weights in half precision: those of a pass without gradients must not serve the next."""
    model = build_model(tiny, split[0], split[3], seed=1).train()
    fields = {"batch_size": 6, "negatives_from": "batch"}
    make, settings = batches(split, **fields), config(**fields)
    (half,), (single,) = (gradients(model, make, 1, 1, settings, bf16) for bf16 in (True, False))
    assert float(torch.nn.functional.cosine_similarity(half, single, dim=0)) > 0.98


def test_a_batch_without_any_negative_teaches_nothing_and_stops_nothing(make_world, tiny):
    source, path = make_world([[0], [1]], [(0, "red"), (1, "red")])
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    split = store, captions, tokenize(vocabulary, captions.texts, 8), vocabulary
    model = build_model(tiny, store, vocabulary, seed=1).train()
    for negatives_from in ("window", "batch"):
        fields = {"batch_size": 2, "negatives_from": negatives_from}
        (found,) = gradients(model, batches(split, **fields), 1, 1, config(**fields))
        assert float(found.abs().max()) == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_hardest_of_sampled_negatives_are_kept_a_side_highest_first(count):
    torch.manual_seed(1)
    logits, is_wrong = torch.randn(20, 8), torch.rand(20, 8) < 0.8
    kept = hardest_places(logits, is_wrong, count)
    for row in range(20):
        for side, found in enumerate(kept[row].chunk(2)):
            places = range(4 * side, 4 * side + 4)
            best = sorted(places, key=lambda place: (not is_wrong[row, place], -logits[row, place].item(), place))
            wrong = [place for place in best if is_wrong[row, place]]
            assert [place for place in found.tolist() if is_wrong[row, place]] == wrong[:count]


def test_uniters_hard_negatives_average_the_hinges_of_the_hardest_sampled(eight_pairs, tiny):
    source, path = eight_pairs
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    captions = load_captions(source, store)
    tokens = tokenize(vocabulary, captions.texts, tiny.max_text_tokens)
    hard = FinetuneConfig(negatives=5, hardest=2, mean_hinge_share=1, batch_size=4, mining_batch_size=7)
    model = build_model(tiny, store, vocabulary, seed=3).eval()
    batch = RetrievalBatches(store, captions, tokens, vocabulary, tiny.max_regions, hard)(0)
    assert batch.image_slots.shape == (4, 11)
    with torch.no_grad():
        loss = retrieval_losses(model, batch, hard, step=0).sums.item()
        scores = torch.sigmoid(score_pairs(model, batch))
    expected = 0.0
    for row, wrong in zip(scores.tolist(), batch.is_wrong.tolist(), strict=True):
        for side in (range(5), range(5, 10)):
            best = sorted((row[1 + place] for place in side if wrong[place]), reverse=True)[:2]
            expected += sum(max(0.0, 0.2 + other - row[0]) for other in best) / len(best)
    assert loss == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="hardest=4 exceeds negatives=3"):
        FinetuneConfig(hardest=4)
