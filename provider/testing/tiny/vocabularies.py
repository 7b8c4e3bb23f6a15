"""Tokenizers of each kind, over the words of `WORDS`; everything else is spelt."""

import string
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

WORDS = tuple(
    """
    the a of and to in is was for on with as by at from it that this are be or an not have has his her their they we
    you one two three first new old more than some other time year day way man woman child world life work part place
    case week company system program question number large cat dog runs sleeps eats plays reads writes sings makes
    takes gives sees knows ing ed er est ly un re
    """.split()  # noqa: SIM905 - so many quoted words are hard to read
)
"""The words that the tokenizers know whole."""

_CHARACTERS = string.ascii_lowercase + string.digits
_BLANK = "\u2581"  # stands for the blank before a word in SentencePiece's vocabularies


def wordpiece(special: list[str], *, before: str, after: str, unknown: str) -> "tokenizers.Tokenizer":
    """BERT's kind: lower-cased words, everything else in letters.

    Args:
        special: special tokens, in the order of their ids.
        before: the one that begins every text.
        after: the one that ends it.
        unknown: the one for what cannot be spelt.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: PLC0415

    spelt = [*_CHARACTERS, *(f"##{each}" for each in _CHARACTERS), *string.punctuation]
    known = [*special, *spelt, *WORDS, *(f"##{word}" for word in WORDS if len(word) < 4)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(known))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    _finish(tokenizer, special, before=before, after=after)
    return tokenizer


def byte_bpe(
    special: list[str],
    *,
    before: str | None,
    after: str | None,
    pattern: str | None = None,
    more: Iterable[str] = (),
) -> "tokenizers.Tokenizer":
    """GPT-2's kind: byte-level BPE whose merges join the words letter by letter.

    Args:
        special: special tokens, in the order of their ids.
        before: the one that begins every text, if any.
        after: the one that ends it, if any.
        pattern: how texts fall into words; None for GPT-2's own.
        more: words known whole at the start of a text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: PLC0415

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = _merged([*special, *letters], [*more, *(f"\u0120{word}" for word in WORDS)])
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is None:
        tokenizer.pre_tokenizer = by_bytes
    else:
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, by_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    _finish(tokenizer, special, before=before, after=after)
    return tokenizer


def fallback_bpe(special: list[str], *, before: str, after: str, unknown: str) -> "tokenizers.Tokenizer":
    """Gemma's kind: BPE over the text with marked blanks, and bytes for characters that it does not know.

    Args:
        special: special tokens, in the order of their ids.
        before: the one that begins every text.
        after: the one that ends it.
        unknown: the one for what cannot be spelt.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: PLC0415

    spelt = [*(f"<0x{byte:02X}>" for byte in range(256)), _BLANK, *_CHARACTERS, *string.punctuation]
    vocabulary, merges = _merged([*special, *spelt], (_BLANK + word for word in WORDS))
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", _BLANK)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])
    _finish(tokenizer, special, before=before, after=after)
    return tokenizer


def unigram(
    special: list[str], *, before: str | None, after: str, unknown: str, last: str | None = None
) -> "tokenizers.Tokenizer":
    """SentencePiece's kind: the likeliest pieces of words with marked blanks.

    Args:
        special: special tokens, in the order of their ids.
        before: the one that begins every text, if any.
        after: the one that ends it.
        unknown: the one for what cannot be spelt.
        last: a special token behind all others.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    pieces: dict[str, float] = dict.fromkeys(special, 0.0)
    pieces |= dict.fromkeys([_BLANK, *_CHARACTERS, *string.ascii_uppercase, *string.punctuation], -9.0)
    pieces |= dict.fromkeys(WORDS, -6.0)
    pieces |= {_BLANK + word: -3.0 for word in WORDS}
    if last is not None:
        pieces[last] = 0.0
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=special.index(unknown), byte_fallback=False))
    metaspace = pre_tokenizers.Metaspace(replacement=_BLANK, prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.decoder = decoders.Metaspace(replacement=_BLANK, prepend_scheme="always")
    _finish(tokenizer, [*special, last] if last else special, before=before, after=after)
    return tokenizer


def _merged(letters: Iterable[str], words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges that join each of `words` letter by letter."""
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(letters))}
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            merges.setdefault((word[:end], word[end]))
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    return vocabulary, list(merges)


def _finish(tokenizer: "tokenizers.Tokenizer", special: list[str], *, before: str | None, after: str | None) -> None:
    """Put the special tokens around every text."""
    from tokenizers import processors  # noqa: PLC0415

    tokenizer.add_special_tokens(special)
    if after is None:
        return
    start = f"{before}:0 " if before else ""
    ends = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((before or after, after))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}$A:0 {after}:0", pair=f"{start}$A:0 {after}:0 $B:1 {after}:1", special_tokens=ends
    )
