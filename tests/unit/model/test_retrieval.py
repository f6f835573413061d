import pytest
import torch

from model.build import build_model
from model.config import FinetuneConfig, ScoringConfig
from model.data import FeatureStore, load_captions
from model.retrieval import RetrievalBatches, hinge_losses, score_pairs
from model.scoring import score_split
from model.tokenizer import load_vocabulary, tokenize

LOGITS = torch.tensor([[1.0, 0.8, 0.2, 0.0, 1.1]])
"""One pair: itself, two wrong captions, two wrong images."""


def config(**changes) -> FinetuneConfig:
    return FinetuneConfig(**{"score": "logit", "margin": 0.5, "negatives": 2, **changes})


def test_hardest_hinge_by_hand():
    # captions: .5-1+.8=.3, .5-1+.2<0; images: .5-1+0<0, .5-1+1.1=.6
    assert hinge_losses(LOGITS, config(), hardest=True).item() == pytest.approx(0.3 + 0.6)
    weighted = config(text_weight=1.0, image_weight=1.5)
    assert hinge_losses(LOGITS, weighted, hardest=True).item() == pytest.approx(0.3 + 1.5 * 0.6)


def test_mean_hinge_by_hand():
    assert hinge_losses(LOGITS, config(), hardest=False).item() == pytest.approx(0.15 + 0.3)


def test_sigmoid_hinge_by_hand():
    s = torch.sigmoid(LOGITS)[0].tolist()
    expected = max(0, 0.2 - s[0] + s[1]) + max(0, 0.2 - s[0] + s[4])
    assert hinge_losses(LOGITS, config(score="sigmoid", margin=0.2), hardest=True).item() == pytest.approx(expected)


def test_hardest_equals_brute_force_over_random_batches():
    torch.manual_seed(0)
    logits = torch.randn(6, 7)
    expected = [
        max(max(0.0, 0.5 - row[0] + x) for x in row[1:4]) + max(max(0.0, 0.5 - row[0] + x) for x in row[4:])
        for row in logits.tolist()
    ]
    assert hinge_losses(logits, config(negatives=3), hardest=True).tolist() == pytest.approx(expected)


@pytest.fixture
def twelve(make_world, tiny):
    """Four images with three captions each."""
    labels = [[0, 1], [2, 3, 4], [5], [6, 7]]
    words = ["red blue", "green cat dog", "bird", "tree car"]
    captions = [(i, " ".join(words[i].split()[: 1 + n % 3])) for n in range(3) for i in range(4)]
    source, path = make_world(labels, captions)
    vocabulary, store = load_vocabulary(path), FeatureStore(source.features_path)
    table = load_captions(source, store)
    return store, table, tokenize(vocabulary, table.texts, tiny.max_text_tokens), vocabulary


def test_negatives_are_never_a_true_partner_and_images_are_read_once(twelve, tiny):
    store, captions, tokens, vocabulary = twelve
    make = RetrievalBatches(store, captions, tokens, vocabulary, 4, config(batch_size=6, negatives=3))
    for step in range(40):
        batch = make(step)
        samples = [sample for _, sample in make._order.step(step)]
        assert len(batch.regions.mask) <= 4
        for slot, sample in enumerate(samples):
            own = store.read([captions.image_rows[sample]], 4).boxes[0, 0]
            images = batch.regions.boxes[batch.image_slots[slot], 0]
            texts = [tuple(batch.words.ids[w][batch.words.mask[w]].tolist()) for w in batch.word_slots[slot]]
            assert all(torch.equal(image, own) for image in images[:4])
            assert not any(torch.equal(image, own) for image in images[4:])
            assert texts[0] == tuple(tokens[sample].tolist())
            assert texts[4:] == [texts[0]] * 3
            # in this world the first word tells the image
            assert all(text[1] != texts[0][1] for text in texts[1:4])


def test_gathered_scores_equal_pair_by_pair_scores(twelve, tiny):
    store, captions, tokens, vocabulary = twelve
    model = build_model(tiny, store, vocabulary, seed=1).eval()
    batch = RetrievalBatches(store, captions, tokens, vocabulary, 4, config(batch_size=3))(0)
    together = score_pairs(model, batch)
    for slot in range(3):
        for column in range(5):
            words = batch.words.take(batch.word_slots[slot, column : column + 1])
            regions = batch.regions.take(batch.image_slots[slot, column : column + 1])
            torch.testing.assert_close(together[slot, column], model.score(words, regions)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_the_score_matrix_equals_a_plain_loop_whatever_the_batch(twelve, tiny, batch_size):
    from model.data import pad_words

    store, captions, tokens, vocabulary = twelve
    model = build_model(tiny, store, vocabulary, seed=2).eval()
    fast = score_split(model, store, captions, tokens, ScoringConfig(batch_size=batch_size), torch.device("cpu"))
    assert fast.shape == (4, 12)
    with torch.no_grad():
        for image in range(4):
            for caption in range(12):
                words = pad_words([tokens[caption]], vocabulary.pad_id)
                slow = model.score(words, store.read([captions.images[image]], 4))
                assert float(fast[image, caption]) == pytest.approx(float(slow), abs=1e-5)
