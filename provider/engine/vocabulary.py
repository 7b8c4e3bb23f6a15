"""The token ids of a model: which stand around every text, which have an embedding, which fill up short inputs."""

import json
from collections.abc import Sequence
from typing import Self

import numpy as np
import tokenizers
from attrs import frozen

from provider.domain import Features, Ids, QueryInput
from provider.errors import InvalidInput, InvalidModel
from provider.models.tokenizer_json import special_ids


@frozen(eq=False)
class Vocabulary:
    """The ids of one tokenizer and one model.

    Attributes:
        prefix, suffix: the special tokens before and behind every text.
        size: ids from 0 to this, exclusive, have an embedding.
        ids_without_embedding: further ids that the tokenizer knows, and the model was never given a row for.
    """

    _tokenizer: tokenizers.Tokenizer
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    size: int
    ids_without_embedding: int

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer, *, known: int | None, embeddings: int | None) -> Self:
        """That of a loaded tokenizer.

        Args:
            tokenizer: as the library has it.
            known: the largest id of a text's tokens plus one, if it is known already.
            embeddings: rows of the model's table of token embeddings; None if unknown.

        Raises:
            InvalidModel: the special tokens do not stand around the text, or have a type, or no row in the table.
        """
        post_processor = tokenizer.post_processor
        try:
            prefix, suffix = special_ids(None if post_processor is None else json.loads(post_processor.__getstate__()))
        except KeyError as exc:
            msg = f"the model's tokenizer has a post-processor that lacks its special token {exc}; restore its files"
            raise InvalidModel(msg) from exc
        except ValueError as exc:
            msg = f"the model's tokenizer is not supported: {exc}; choose another model"
            raise InvalidModel(msg) from exc
        known = known or 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        last_special = max((*prefix, *suffix), default=-1)
        known = max(known, 1 + last_special)
        size = known if embeddings is None else min(known, embeddings)
        vocabulary = cls(tokenizer, tuple(prefix), tuple(suffix), size, known - size)
        if last_special >= size:
            msg = (
                f"the special token {vocabulary.name(last_special)} of every text has no row in the model's table of "
                f"{embeddings} embeddings; the files do not belong together"
            )
            raise InvalidModel(msg)
        return vocabulary

    @property
    def special_tokens(self) -> int:
        """How many stand around every text."""
        return len(self.prefix) + len(self.suffix)

    def name(self, token: int) -> str:
        """A token for messages."""
        known = self._tokenizer.id_to_token(token)
        return f"id {token}" if known is None else f"{known!r} (id {token})"

    def id_of(self, token: str) -> int | None:
        """The id of a token that has an embedding; None if it has none."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None or found >= self.size else int(found)

    def check_text(self, index: int, ids: Ids) -> None:
        """See that all tokens of a text have an embedding.

        Raises:
            InvalidInput: one has none.
        """
        if self.ids_without_embedding and len(lost := ids[ids >= self.size]):
            reason = (
                f"the token {self.name(int(lost[0]))} in it has no embedding in this model (ids 0 to {self.size - 1} "
                "have one). Remove or respell that part of the text."
            )
            raise InvalidInput(index, reason)

    def check_ids(self, index: int, ids: Ids) -> None:
        """See that all ids that a caller sent have an embedding.

        Raises:
            InvalidInput: one has none.
        """
        outside = ids[(ids < 0) | (ids >= self.size)]
        if len(outside):
            reason = (
                f"token id {int(outside[0])} is outside this model's vocabulary (0 to {self.size - 1}). "
                "Token ids must come from this model's own tokenizer."
            )
            raise InvalidInput(index, reason)


@frozen
class Filling:
    """What short inputs are filled up with, as ColBERT's queries are.

    Attributes:
        length: tokens that an input has at least; 0 for no filling.
        token: the id that it is filled up with.
        is_attended: whether other tokens attend to the filling.
    """

    length: int = 0
    token: int = 0
    is_attended: bool = True

    @classmethod
    def of(cls, given: QueryInput | None, vocabulary: Vocabulary) -> Self:
        """As the model's files say.

        Raises:
            InvalidModel: the token has no embedding.
        """
        if given is None or not given.fill_to:
            return cls()
        token = vocabulary.id_of(given.fill_token)
        if token is None:
            name = given.fill_token
            msg = f"the token {name!r} that fills up queries has no embedding in the model; the files do not fit"
            raise InvalidModel(msg)
        return cls(given.fill_to, token, given.attends_to_filling)

    def features(self, ids: Sequence[int]) -> Features:
        """Of an input whose tokens are `ids`; one without tokens stays so."""
        missing = max(self.length - len(ids), 0) if len(ids) else 0
        if not missing:
            return Features(np.array(ids, np.int32))
        filled = np.array([*ids, *([self.token] * missing)], np.int32)
        return Features(filled, unattended=0 if self.is_attended else missing)
