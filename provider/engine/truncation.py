"""Inputs that are too long: how many of their tokens stay, which, and what is told of them."""

from typing import Literal, Self, TypeVar

from attrs import evolve, frozen

from provider.domain import Features, Ids, Truncation
from provider.errors import InputTooLong, InvalidOption

T = TypeVar("T", list[int], Ids)


@frozen(eq=False)
class Encoded:
    """One input, tokenised.

    Attributes:
        features: what goes into the model, at most as many tokens as it takes.
        was_cut: whether tokens were left out.
        original_tokens: tokens before the cut; None where the text was too long to count them all.
    """

    features: Features
    was_cut: bool = False
    original_tokens: int | None = None

    @property
    def ids(self) -> Ids:
        """Its token ids, special tokens included."""
        return self.features.ids

    @property
    def skip(self) -> int:
        """Its leading tokens that take no part in pooling."""
        return self.features.skip

    def with_skip(self, skip: int) -> Self:
        """The same with so many leading tokens out of pooling, but for the last: at least one token is pooled."""
        return evolve(self, features=evolve(self.features, skip=min(skip, len(self.ids) - 1)))


@frozen
class TokenLimit:
    """What becomes of inputs that are too long.

    Attributes:
        tokens: most of one input, special tokens included.
        side: where longer ones are cut; none: they are errors.
        keeps_prompt: whether a prompt stays where the start is cut.
        is_requested: whether the limit is the request's, not the model's.
    """

    tokens: int
    side: Literal["none", "start", "end"]
    keeps_prompt: bool
    is_requested: bool

    @classmethod
    def of(
        cls, truncate: Truncation, max_tokens: int | None, *, model_tokens: int, needed: int, cuts_start: bool
    ) -> Self:
        """The limit of a request.

        Args:
            truncate: `auto` cuts as sentence-transformers does; a prompt is then no more than the text's start.
            max_tokens: most tokens that the request wants; None for the model's limit, which holds anyway.
            model_tokens: most tokens of the model.
            needed: tokens around every text.
            cuts_start: whether the model's tokenizer cuts texts at their start.

        Raises:
            InvalidOption: `max_tokens` leaves no room for text.
        """
        if max_tokens is not None and max_tokens <= needed:
            reason = f"{max_tokens} leave no room for text, as this model adds {needed}. Send {needed + 1} or more."
            raise InvalidOption(option="max_tokens", reason=reason)
        is_requested = max_tokens is not None and max_tokens < model_tokens
        tokens = max_tokens if is_requested and max_tokens is not None else model_tokens
        if truncate == "auto":
            return cls(tokens, "start" if cuts_start else "end", keeps_prompt=False, is_requested=is_requested)
        return cls(tokens, truncate, keeps_prompt=True, is_requested=is_requested)

    @property
    def cuts_start(self) -> bool:
        """Whether the start of longer inputs is cut off."""
        return self.side == "start"

    def check(self, index: int, tokens: int, *, is_counted: bool = True, is_pair: bool = False) -> None:
        """See that the input at `index`, which has too many tokens, may be cut.

        Raises:
            InputTooLong: it may not.
        """
        if self.side == "none":
            raise InputTooLong(
                index,
                tokens=tokens,
                limit=self.tokens,
                is_counted=is_counted,
                is_pair=is_pair,
                is_requested=self.is_requested,
            )

    def kept(self, ids: T, room: int) -> T:
        """The `room` tokens of `ids`, which has more, that stay."""
        return ids[len(ids) - room :] if self.cuts_start else ids[:room]
