"""Tables of a pretrained UNITER grow as its program grows them: old rows stay, new ones are copies or drawn."""

import pytest
import torch

from model.errors import InputError
from model.families.configs import of_family
from model.families.grow import grow_types, grow_words
from model.families.model import VisionLanguageModel

TYPES = "bert.embeddings.token_type_embeddings.weight"


@pytest.fixture
def make(tiny):
    def model(family: str = "uniter", **changes) -> VisionLanguageModel:
        torch.manual_seed(4)
        encoder = of_family(tiny, family).model_copy(update=changes)
        return VisionLanguageModel(13, 24, 8, 3, encoder.model_dump(mode="json"))

    return model


@pytest.mark.parametrize(("rows", "copies"), [(3, [1]), (4, [0, 0])])
def test_new_types_are_copies_and_the_rest_stays(make, rows, copies):
    before = make()
    after = grow_types(before, rows)
    assert after.config.type_rows == rows and grow_types(after, rows) is after
    theirs, ours = before.state_dict(), after.state_dict()
    assert torch.equal(ours[TYPES][:2], theirs[TYPES]) and torch.equal(ours[TYPES][2:], theirs[TYPES][copies])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name != TYPES)
    ours[TYPES].zero_()
    assert theirs[TYPES].any()


def test_types_that_do_not_grow_are_refused_by_name(make):
    with pytest.raises(InputError, match="4 rows does not grow to 3; start from a checkpoint of 2 rows, or of 3"):
        grow_types(make(type_rows=4), 3)
    with pytest.raises(InputError, match="type tables of 3 rows are UNITER's, but this model is of family unicoder-vl"):
        grow_types(make("unicoder-vl"), 3)


def test_new_words_are_drawn_by_seed_and_predicted_with_a_bias_of_zero(make):
    before = make()
    torch.nn.init.normal_(before.cls.predictions.bias)
    after, other = grow_words(before, 200, seed=1), grow_words(before, 200, seed=2)
    table, bias = after.bert.word_table, after.cls.predictions.bias
    assert after.vocab_size == len(table) == len(bias) == 200
    assert torch.equal(table[:13], before.bert.word_table) and torch.equal(bias[:13], before.cls.predictions.bias)
    assert table[13:].std().item() == pytest.approx(0.1, rel=0.05) and not bias[13:].any()
    assert not torch.equal(other.bert.word_table[13:], table[13:])
    assert torch.equal(grow_words(before, 200, seed=1).bert.word_table, table)
    with pytest.raises(InputError, match="this model has 13 word pieces, more than 12"):
        grow_words(before, 12, seed=0)
