"""BERT's tokenizer from the `tokenizers` package: transformers makes the same, but takes a second to import."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece


def bert_tokenizer(
    pieces: Mapping[str, int],
    *,
    do_lower_case: bool = True,
    strip_accents: bool | None = None,
    tokenize_chinese_chars: bool = True,
    pad_token: str = "[PAD]",  # noqa: S107
    unk_token: str = "[UNK]",  # noqa: S107
    cls_token: str = "[CLS]",  # noqa: S107
    sep_token: str = "[SEP]",  # noqa: S107
    mask_token: str = "[MASK]",  # noqa: S107
) -> Tokenizer:
    """The tokenizer that `transformers.BertTokenizerFast` makes of these arguments, to the last rule: see its test.

    Args:
        pieces: word pieces and their ids; all five special tokens are among them.
        strip_accents: None: where letters are made small.
    """
    tokenizer = Tokenizer(WordPiece(dict(pieces), unk_token=unk_token))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokenize_chinese_chars,
        strip_accents=strip_accents,
        lowercase=do_lower_case,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    special = (pad_token, unk_token, cls_token, sep_token, mask_token)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls_token}:0 $A:0 {sep_token}:0",
        pair=f"{cls_token}:0 $A:0 {sep_token}:0 $B:1 {sep_token}:1",
        special_tokens=[(cls_token, pieces[cls_token]), (sep_token, pieces[sep_token])],
    )
    return tokenizer
