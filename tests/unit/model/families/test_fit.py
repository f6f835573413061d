import shutil

import pytest

from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary
from model.errors import InputError
from model.families.build import build_model
from model.families.fit import check_features, check_matching, check_same_words
from model.families.model import VisionLanguageModel
from model.training.checkpoint import load_model


@pytest.fixture
def world(eight_pairs, tiny):
    source, path = eight_pairs
    store, vocabulary = FeatureStore(source.features_path), load_vocabulary(path)
    return store, vocabulary, path, build_model(tiny, store, vocabulary, seed=0)


def other_model(store, tiny, **changes):
    sizes = {"vocab_size": 13, "feature_dim": 24, "num_labels": 8, "sep_id": 3, "extractor": store.manifest.extractor}
    return VisionLanguageModel(**sizes | {"encoder": tiny.model_dump()} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_dim": 48}, "the model reads 48-wide features and 8 labels, but .* has 24 and 8"),
        ({"num_labels": 80}, "24-wide features and 80 labels, but .* has 24 and 8"),
        ({"extractor": "f" * 64}, "trained on features of extractor ffffffffffff, but .* comes from eeeeeeeeeeee"),
    ],
)
def test_features_of_another_kind_are_refused(world, tiny, changes, message):
    store, *_ = world
    with pytest.raises(InputError, match=message):
        check_features(other_model(store, tiny, **changes), store, "the model")


def test_an_encoder_of_more_regions_than_were_extracted_is_refused(world, tiny):
    store, vocabulary, *_ = world
    with pytest.raises(InputError, match=r"up to 6 regions an image, but .* holds at most 5"):
        build_model(tiny.model_copy(update={"max_regions": 6}), store, vocabulary, seed=0)
    build_model(tiny.model_copy(update={"max_regions": 5}), store, vocabulary, seed=0)


@pytest.mark.parametrize(("piece", "size"), [("bush\n", 14), ("", 12)])
def test_a_checkpoint_whose_vocabulary_is_longer_or_shorter_than_its_table_is_refused(world, tmp_path, piece, size):
    *_, path, model = world
    folder = tmp_path / "step-0000001"
    model.save_pretrained(folder)
    shutil.copyfile(path, folder / "vocab.txt")
    assert load_model(folder)[1].size == 13
    lines = path.read_text() + piece if piece else path.read_text().rpartition("car")[0]
    (folder / "vocab.txt").write_text(lines)
    with pytest.raises(InputError, match=f"embeddings of 13 word pieces, but the vocabulary has {size}"):
        load_model(folder)


def test_a_vocabulary_that_is_not_the_checkpoint_s_is_refused_with_both_and_the_way_out(world, tmp_path):
    _, vocabulary, path, _ = world
    check_same_words(vocabulary, load_vocabulary(path), "step-0000001")
    (tmp_path / "cased").mkdir()
    shutil.copyfile(path, tmp_path / "cased" / "vocab.txt")
    (tmp_path / "cased" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = load_vocabulary(tmp_path / "cased")
    message = r"step-0000001 was trained with another vocabulary than .*cased \(do_lower_case=true against false\); set"
    with pytest.raises(InputError, match=message):
        check_same_words(vocabulary, cased, "step-0000001")
    path.write_text(path.read_text().replace("car", "bus"))
    with pytest.raises(InputError, match=r"\(line 13 differs, 'car' against 'bus'\); set vocabulary_path to its own"):
        check_same_words(vocabulary, load_vocabulary(path), "step-0000001")


def test_a_model_without_matching_head_is_refused_with_the_way_out(world):
    *_, model = world
    check_matching(model, "step-0000001")
    with pytest.raises(InputError, match=r"step-0000001 has no matching head, .* the objective vlm"):
        check_matching(model.with_heads({}, seed=0), "step-0000001")
