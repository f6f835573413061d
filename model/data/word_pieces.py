"""Word pieces and the rules for cutting text into them, as a BERT's folder states them.

Imports no torch.

The rules are read as transformers reads them: tokenizer_config.json decides, special_tokens_map.json fills in its
special tokens and tokenizer.json the rest; what none of them says is as of bert-base-uncased, so a vocab.txt alone
is lower-casing. A setting that would cut captions in a way that is not ours is refused by name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_extraction.weight_files import content_problem
from model.config import WordRules
from model.errors import InputError

VOCABULARY, SETTINGS, WHOLE, SPECIAL = "vocab.txt", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"
_TOKENS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_CLASSES = ("Bert", "DistilBert", "Electra", "Lxmert", "MobileBert", "ConvBert", "SqueezeBert", "LayoutLM")
"""Whose tokenizers of transformers cut words as BERT's does."""
_LONGEST_WORD = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WordPieces:
    """The pieces, by id, and the rules; `source` names them in messages."""

    pieces: tuple[str, ...]
    rules: WordRules
    source: str


@dataclass(frozen=True)
class WordFiles:
    """Paths of word pieces: `file`, None where only tokenizer.json has them, and `folder` with their rules."""

    folder: Path
    file: Path | None
    source: str


def find_words(source: str | Path) -> WordFiles:
    """Find the files of a vocabulary.

    Args:
        source: a vocab.txt, whatever its name; a folder, such as a BERT's or a checkpoint; or a name on the Hugging
            Face hub, from where they are fetched.

    Raises:
        InputError: it is none of these, or the hub does not give it.
    """
    path = Path(source)
    if path.is_file():
        return WordFiles(path.parent, path, str(source))
    if not path.is_dir():
        if not is_hub_name(str(source)):
            raise InputError(
                f"vocabulary {source} is not a file; give a BERT vocab.txt, one word piece a line, a BERT's folder, or "
                "its name on the Hugging Face hub"
            )
        from model.data.hub import fetch_words

        path = fetch_words(str(source))
    if (path / VOCABULARY).is_file():
        return WordFiles(path, path / VOCABULARY, str(source))
    if (path / WHOLE).is_file():
        return WordFiles(path, None, str(source))
    raise InputError(f"vocabulary {source} has neither {VOCABULARY} nor {WHOLE}; give the folder of a BERT")


def is_hub_name(source: str) -> bool:
    """Whether this can name a repository on the hub, not a missing file or folder."""
    parts = source.split("/")
    is_path = source.endswith((".txt", ".json")) or Path(source).is_absolute() or Path(source).exists()
    return not is_path and len(parts) <= 2 and all(part.strip(".~") == part and part for part in parts)


def read_words(source: str | Path, rules: WordRules | None = None) -> WordPieces:
    """Read pieces and rules of a vocabulary; arguments are those of `find_words`.

    Args:
        rules: to go by, instead of the folder's.

    Raises:
        InputError: as `find_words`; or the file is no vocabulary, lacks a special token or repeats a piece, or the
            folder's rules are no rules of ours.
    """
    files = find_words(source)
    if rules is None:
        rules = read_rules(files.folder)
    whole = _whole_pieces(files.folder)
    if files.file is None:
        assert whole is not None
        pieces = whole
    else:
        pieces = _lines(files.file)
        if whole is not None and (difference := differing_pieces(pieces, whole)) is not None:
            raise InputError(
                f"{files.file} and {files.folder / WHOLE} are two vocabularies ({difference}); remove the one that the "
                "weights were not trained with"
            )
    missing = [token for token in rules.special_tokens if token not in pieces]
    if missing:
        raise InputError(f"vocabulary {source} lacks {', '.join(missing)}; give a BERT vocab.txt")
    if len(set(pieces)) != len(pieces) or "" in pieces:
        raise InputError(
            f"vocabulary {source} has {len(pieces)} lines but only {len(set(pieces) - {''})} word pieces; remove "
            "repeated or empty lines"
        )
    return WordPieces(pieces, rules, str(source))


def warn_of_case(words: WordPieces) -> None:
    """Warn of a cased vocabulary: lower-casing never reaches pieces with capitals."""
    if not words.rules.do_lower_case:
        return
    special = set(words.rules.special_tokens)
    capitals = [piece for piece in words.pieces if piece != piece.lower() and piece not in special and piece[0] != "["]
    if capitals:
        _log.warning(
            "vocabulary %s: captions are lower-cased, and %d of its pieces have capitals, such as %s, that no caption "
            'ever gives; if it is a cased one, put {"do_lower_case": false} into %s beside it',
            words.source,
            len(capitals),
            capitals[0],
            SETTINGS,
        )


def words_identity(source: str) -> tuple[Path | str, dict[str, Any]]:
    """The vocabulary's part in a run's identity.

    Returns:
        The file whose bytes count, or the name on the hub, which counts for what it names; and the rules that differ
        from those that all runs had before there were others.

    Raises:
        InputError: as `find_words`; or the rules are none of ours.
    """
    if is_hub_name(source):
        return source, {}
    files = find_words(source)
    return files.file or files.folder / WHOLE, read_rules(files.folder).changed()


def save_words(words: WordPieces, folder: Path) -> None:
    """Write pieces and rules as `read_words`, and transformers' `from_pretrained`, read them."""
    (folder / VOCABULARY).write_text("\n".join(words.pieces) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", **words.rules.model_dump(mode="json")}
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


# --- differences ----------------------------------------------------------------------------------------------------


def differing_pieces(one: tuple[str, ...], other: tuple[str, ...]) -> str | None:
    """The first difference in pieces, or None."""
    for number, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return f"line {number + 1} differs, {a!r} against {b!r}"
    return None if len(one) == len(other) else f"{len(one)} pieces against {len(other)}"


def differing_rules(one: WordRules, other: WordRules) -> str | None:
    """Every rule that differs, with both values, or None."""
    differences = [
        f"{name}={shown(getattr(one, name))} against {shown(getattr(other, name))}"
        for name in WordRules.model_fields
        if getattr(one, name) != getattr(other, name)
    ]
    return ", ".join(differences) or None


def differing_words(one: WordPieces, other: WordPieces) -> str | None:
    """The difference between two vocabularies, or None where they cut every text alike."""
    return differing_pieces(one.pieces, other.pieces) or differing_rules(one.rules, other.rules)


def shown(value: object) -> str:
    """A value in JSON, as settings are written."""
    return json.dumps(value, ensure_ascii=False)


# --- files ----------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    if not path.is_file():
        return None
    try:
        if (problem := content_problem(path)) is not None:
            raise InputError(f"{path} {problem}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); get it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no JSON object; get it again")
    return content


def states_rules(folder: Path) -> bool:
    """Whether a folder states the rules by which its words are cut."""
    return any((folder / name).is_file() for name in (SETTINGS, WHOLE))


def read_rules(folder: Path) -> WordRules:
    """Read the rules that a folder states; where it states none, bert-base-uncased's.

    Raises:
        InputError: a file of it cannot be read, or asks for a rule that is not ours.
    """
    settings = read_json(folder / SETTINGS) or {}
    special = read_json(folder / SPECIAL) or {}
    whole = read_json(folder / WHOLE) or {}
    _check_settings(settings, folder / SETTINGS)
    normalizer = _check_whole(whole, folder / WHOLE)
    stated = {
        "do_lower_case": normalizer.get("lowercase"),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars"),
    }
    found: dict[str, Any] = {}
    for name, value in stated.items():
        if settings.get(name) is not None:
            found[name] = settings[name]
            if value is not None and value != settings[name]:
                _log.warning(
                    "%s: %s says %s=%s, %s says %s; the former counts, as in transformers",
                    folder, SETTINGS, name, shown(settings[name]), WHOLE, shown(value),
                )  # fmt: skip
        elif value is not None and not (name == "strip_accents" and "strip_accents" in settings):
            found[name] = value
    for name in _TOKENS:
        token = settings.get(name) or special.get(name)
        if token is not None:
            found[name] = token["content"] if isinstance(token, Mapping) else token
    try:
        rules = WordRules.model_validate(found, strict=True)
    except ValueError as error:
        wrong = ", ".join(f"{name}={shown(value)}" for name, value in found.items())
        raise InputError(f"{folder / SETTINGS}: {wrong}: true or false, and text for tokens, is expected") from error
    _check_added(settings, special, whole, rules, folder)
    return rules


def _check_settings(settings: Mapping[str, Any], path: Path) -> None:
    """Raise InputError where tokenizer_config.json asks for another way of cutting than BERT's."""
    name = str(settings.get("tokenizer_class") or "BertTokenizer").removesuffix("Fast")
    general = ("PreTrainedTokenizer", "TokenizersBackend")  # which take everything from tokenizer.json
    if name not in (*general, *(f"{one}Tokenizer" for one in _CLASSES)):
        raise InputError(
            f"{path}: tokenizer_class={shown(name)}; only BERT's word pieces, BertTokenizer, are supported"
        )
    for setting, only in (("do_basic_tokenize", True), ("never_split", None), ("word_tokenizer_type", "basic")):
        if (value := settings.get(setting) or only) != only:
            raise InputError(f"{path}: {setting}={shown(value)}; only {shown(only)} is supported")
    if settings.get("do_basic_tokenize") is False:
        raise InputError(f"{path}: do_basic_tokenize=false; only true is supported")


def _check_whole(whole: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Check the normalizer of tokenizer.json and return it.

    Raises InputError where that file cuts words in another way than BERT.
    """
    if not whole:
        return {}
    model, normalizer, pre = (whole.get(name) or {} for name in ("model", "normalizer", "pre_tokenizer"))
    for name, value, only in (
        ("model.type", model.get("type", "WordPiece"), "WordPiece"),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix", "##"), "##"),
        ("model.max_input_chars_per_word", model.get("max_input_chars_per_word", _LONGEST_WORD), _LONGEST_WORD),
        ("normalizer.type", normalizer.get("type"), "BertNormalizer"),
        ("normalizer.clean_text", normalizer.get("clean_text", True), True),
        ("pre_tokenizer.type", pre.get("type"), "BertPreTokenizer"),
    ):
        if value != only:
            raise InputError(f"{path}: {name}={shown(value)}; only {shown(only)} is supported")
    return normalizer


def _check_added(
    settings: Mapping[str, Any], special: Mapping[str, Any], whole: Mapping[str, Any], rules: WordRules, folder: Path
) -> None:
    """Raise InputError where added tokens beside the five are cut before all else: ours would not do so."""
    decoder = settings.get("added_tokens_decoder") or {}
    added = [
        *(decoder.values() if isinstance(decoder, Mapping) else ()),
        *(whole.get("added_tokens") or ()),
        *(settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or ()),
        *(special.get("additional_special_tokens") or ()),
        *(read_json(folder / "added_tokens.json") or ()),
    ]
    tokens = [str(one["content"] if isinstance(one, Mapping) else one) for one in added]
    more = [token for token in tokens if token not in rules.special_tokens]
    if more:
        raise InputError(
            f"{folder} adds tokens to the vocabulary, such as {more[0]!r}; only {', '.join(rules.special_tokens)} are "
            "supported as tokens that text is not cut into"
        )


def _lines(path: Path) -> tuple[str, ...]:
    """Pieces of a vocab.txt, one a line."""
    try:
        if (problem := content_problem(path)) is not None:
            raise InputError(f"vocabulary {path} {problem}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"vocabulary {path} is not text in UTF-8; give a BERT vocab.txt") from error
    except OSError as error:
        raise InputError(f"vocabulary {path} cannot be read ({error.strerror}); give a BERT vocab.txt") from error
    # Some pieces are line ends to `splitlines`, but not to BERT.
    lines = text.split("\n")
    return tuple(lines if lines[-1] else lines[:-1])


def _whole_pieces(folder: Path) -> tuple[str, ...] | None:
    """Pieces of tokenizer.json by their ids, if there is one."""
    whole = read_json(folder / WHOLE)
    if whole is None:
        return None
    table = (whole.get("model") or {}).get("vocab")
    if not isinstance(table, Mapping) or sorted(table.values()) != list(range(len(table))):
        raise InputError(f"{folder / WHOLE}: model.vocab does not number its word pieces from 0 on; get it again")
    return tuple(sorted(table, key=table.__getitem__))
