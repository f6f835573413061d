"""Folders as BERTs come in, cut against transformers' own reading of the same folder."""

import hashlib
import json
import logging
import shutil

import pytest
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoTokenizer, BertTokenizerFast

from model.config import WordRules
from model.data.tokenizer import load_vocabulary, tokenize
from model.data.word_pieces import is_hub_name, read_rules, read_words, save_words, warn_of_case, words_identity
from model.errors import InputError

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "paris", "Paris", "e", "é", "caf", "##é", "##e", "café"),
    *("中", "##国", "国", "中国", "!"),
]
TEXTS = ["Paris, café 中国!", "PARIS paris", "Cafe\u0301 ÉE"]
CASED = {"do_lower_case": False}


@pytest.fixture
def make(tmp_path):
    """make(tokenizer_config.json, tokenizer.json made with these settings, vocab.txt or not) -> a BERT's folder."""

    def write(settings=None, whole=None, pieces=PIECES, name="bert"):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "bert"}')
        if pieces is not None:
            (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
        if settings is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        if whole is not None:
            made = BertTokenizerFast({piece: number for number, piece in enumerate(PIECES)}, **whole)
            made.backend_tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return write


def ids_of(source):
    table = tokenize(load_vocabulary(source), TEXTS, 64)
    return [table[number].tolist() for number in range(len(table))]


@pytest.mark.parametrize(
    "settings",
    [
        None,
        {},
        {"do_lower_case": True},
        CASED,
        CASED | {"strip_accents": True},
        {"strip_accents": False},
        {"strip_accents": True},
        {"tokenize_chinese_chars": False},
        CASED | {"tokenizer_class": "BertTokenizerFast", "model_max_length": 512, "do_basic_tokenize": True},
        CASED | {"unk_token": "!", "mask_token": {"content": "[MASK]", "lstrip": False, "__type": "AddedToken"}},
        CASED | {"added_tokens_decoder": {"1": {"content": "[UNK]", "special": True}}},
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_folder_is_cut_as_transformers_cuts_it(make, settings, whole):
    names = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "unk_token")
    alike = {name: value for name, value in (settings or {}).items() if name in names}
    folder = make(settings, alike if whole else None)
    expected = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    assert ids_of(folder) == ids_of(folder / "vocab.txt") == expected


def test_a_cased_folder_keeps_its_capitals(make):
    assert ids_of(make(CASED))[0][1] == PIECES.index("Paris")
    assert ids_of(make())[0][1] == PIECES.index("paris")


def test_what_tokenizer_json_alone_states_counts(make):
    """transformers overlooks it where tokenizer_config.json is silent, and would lower-case a cased vocabulary."""
    cased = ids_of(make(CASED))
    assert ids_of(make({}, CASED)) == ids_of(make(None, CASED)) == ids_of(make(None, CASED, pieces=None)) == cased


def test_where_both_speak_the_settings_count_and_the_log_says_so(make, caplog):
    assert ids_of(make(CASED, {})) == ids_of(make(CASED))
    assert "tokenizer_config.json says do_lower_case=false, tokenizer.json says true" in caplog.text


def test_rules_that_cut_alike_are_the_same_vocabulary_as_without_them(make):
    """Runs of before read no rules: a folder that states theirs is the same vocabulary, under the same digest."""
    plain = load_vocabulary(make(name="plain") / "vocab.txt")
    for settings in ({}, {"do_lower_case": True, "strip_accents": None}, {"strip_accents": True}):
        folder = make(settings, {})
        assert load_vocabulary(folder).digest == plain.digest
        assert words_identity(str(folder)) == (folder / "vocab.txt", {})
    folder = make(CASED)
    assert load_vocabulary(folder).digest != plain.digest
    assert words_identity(str(folder / "vocab.txt")) == (folder / "vocab.txt", CASED)
    assert words_identity(str(make(None, CASED, pieces=None))) == (folder / "tokenizer.json", CASED)


def test_the_digest_of_a_bare_vocabulary_is_that_of_runs_before(make):
    """They are found, and resumed, by it."""
    file = make() / "vocab.txt"
    rules = json.loads(BertTokenizerFast(str(file)).backend_tokenizer.to_str())
    del rules["truncation"], rules["padding"]
    assert load_vocabulary(file).digest == hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("settings", [None, CASED, {"strip_accents": False, "tokenize_chinese_chars": False}])
def test_saved_words_are_read_back_by_us_and_by_transformers(make, tmp_path, settings):
    words = read_words(make(settings))
    saved = tmp_path / "saved"
    saved.mkdir()
    save_words(words, saved)
    again = read_words(saved)
    assert (again.pieces, again.rules) == (words.pieces, words.rules)
    for kind in (AutoTokenizer, BertTokenizerFast):
        assert kind.from_pretrained(saved)(TEXTS)["input_ids"] == ids_of(saved)


def test_rules_that_are_given_stand_above_the_folder_s(make):
    folder = make(CASED)
    assert load_vocabulary(folder, WordRules()).words.rules == WordRules()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_class": "RobertaTokenizer"}, 'tokenizer_class="RobertaTokenizer"; only'),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, 'tokenizer_class="BertJapaneseTokenizer"; only'),
        ({"do_basic_tokenize": False}, "do_basic_tokenize=false; only true is supported"),
        ({"never_split": ["New York"]}, r"never_split=\[\"New York\"\]; only null is supported"),
        ({"additional_special_tokens": ["!"]}, "adds tokens to the vocabulary, such as '!'"),
        (
            {"added_tokens_decoder": {"18": {"content": "<person>"}}},
            "adds tokens to the vocabulary, such as '<person>'",
        ),
        ({"do_lower_case": "no"}, r'do_lower_case="no": true or false'),
        ({"cls_token": "<s>"}, "lacks <s>"),
    ],
)
def test_a_setting_that_is_not_ours_is_refused_by_name_and_value(make, settings, message):
    with pytest.raises(InputError, match=message):
        read_words(make(settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "BPE"}}, 'model.type="BPE"; only "WordPiece"'),
        ({"model": {"continuing_subword_prefix": "@@"}}, 'continuing_subword_prefix="@@"; only "##"'),
        ({"model": {"max_input_chars_per_word": 20}}, "max_input_chars_per_word=20; only 100"),
        ({"normalizer": {"type": "NFKC"}}, 'normalizer.type="NFKC"; only "BertNormalizer"'),
        ({"normalizer": {"clean_text": False}}, "normalizer.clean_text=false; only true"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, 'pre_tokenizer.type="Whitespace"; only "BertPreTokenizer"'),
        ({"model": {"vocab": {"[PAD]": 1}}}, "model.vocab does not number its word pieces from 0"),
    ],
)
def test_another_kind_of_tokenizer_json_is_refused_by_name_and_value(make, change, message):
    folder = make(None, {})
    whole = json.loads((folder / "tokenizer.json").read_text())
    for part, values in change.items():
        whole[part] |= values
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match=message):
        read_words(folder)


def test_two_vocabularies_in_one_folder_are_refused(make):
    folder = make(None, {}, pieces=[*PIECES[:-1], "?"])
    with pytest.raises(InputError, match=r"are two vocabularies \(line 18 differs, '\?' against '!'\)"):
        read_words(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", "version https://git-lfs.github.com/spec/v1\n", r"vocab\.txt is a Git LFS pointer"),
        ("vocab.txt", "<!DOCTYPE html>", r"vocab\.txt is a web page"),
        ("tokenizer_config.json", "version https://git-lfs.github.com/spec/v1\n", "config.json is a Git LFS pointer"),
        ("tokenizer_config.json", "[]", "is no JSON object"),
        ("tokenizer.json", "{", r"tokenizer\.json cannot be read"),
        ("vocab.txt", "\n".join([*PIECES, "e"]), "has 19 lines but only 18 word pieces; remove repeated"),
        ("vocab.txt", "\n".join(PIECES[1:]), r"lacks \[PAD\]"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(make, name, content, message):
    folder = make()
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_words(folder)


def test_a_folder_without_words_and_a_file_that_is_absent_are_refused(make):
    with pytest.raises(InputError, match=r"has neither vocab\.txt nor tokenizer\.json"):
        read_words(make(pieces=None))
    with pytest.raises(InputError, match=r"absent/vocab\.txt is not a file"):
        read_words("absent/vocab.txt")


def test_pieces_that_lower_casing_never_reaches_are_told_of(make, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_case(read_words(make(CASED)))
        assert not caplog.text
        warn_of_case(read_words(make()))
    assert "1 of its pieces have capitals, such as Paris" in caplog.text
    assert 'put {"do_lower_case": false} into tokenizer_config.json beside it' in caplog.text


def test_a_name_on_the_hub_is_told_from_a_path():
    assert all(is_hub_name(name) for name in ("bert-base-cased", "google-bert/bert-base-cased"))
    paths = ("vocab.txt", "data/vocab.txt", "/bert", "./bert", "../bert", "~/bert", "a/b/c", "bert/")
    assert not any(is_hub_name(path) for path in paths)
    assert words_identity("google-bert/bert-base-cased") == ("google-bert/bert-base-cased", {})


def test_a_vocabulary_of_the_hub_comes_with_its_rules(make, monkeypatch):
    folder = make(CASED)

    def from_the_hub(name, file):
        assert name == "someone/cased-bert"
        if not (folder / file).is_file():
            raise EntryNotFoundError(file)
        return str(folder / file)

    monkeypatch.setattr("model.data.hub.hf_hub_download", from_the_hub)
    words = read_words("someone/cased-bert")
    assert (words.rules, words.source) == (read_rules(folder), "someone/cased-bert")
    assert not words.rules.do_lower_case
