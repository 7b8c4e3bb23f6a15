"""Attention within each row of a batch without padding, called by transformers' own model classes.

transformers looks up a model's attention and its mask by name (`AttentionInterface`, `AttentionMaskInterface`). Under
`PACKED` a model runs on the tokens of all rows, one behind the other, as if they were one row: its products and
normalisations see no padding, and attention comes here. What a token sees is taken from transformers' own mask
function, so that causal models and sliding windows need no case of their own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from attrs import define, field, frozen
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

PACKED = "emb_packed"
"""The name, as `attn_implementation`."""

# Arguments of an attention layer that change what it computes, and are not supported here.
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


@define(eq=False)
class Bands:
    """What tokens see, in the order in which a model makes its masks during one pass: tokens before, tokens behind.

    Attributes:
        known: of an earlier pass whose longest row was as long: nothing is computed, which on CUDA would wait for it.
        made: during this one.
    """

    known: Sequence[tuple[int, int]] = ()
    made: list[tuple[int, int]] = field(factory=list)


@frozen(eq=False)
class Pass:
    """One pass of a model over rows: what attention has to know.

    Attributes:
        groups: rows of one length: (first token, rows, length); the longest last.
        seen: for each group, which tokens others see, (rows, 1, 1, length) bool; None where all are seen.
        ends: where each row starts, and the end of the last one, int32 on the device, for `varlen_attn`: filling is a
            row of its own. None for attention by the rows of one length at a time.
        widest: no row, filling included, is longer.
        bands: see there.
    """

    groups: tuple[tuple[int, int, int], ...]
    seen: Sequence[torch.Tensor | None]
    ends: torch.Tensor | None
    widest: int
    bands: Bands

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.groups[-1][2]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Attention of this thread runs within these rows."""
        token = _PASS.set(self)
        try:
            yield
        finally:
            _PASS.reset(token)


_PASS: ContextVar[Pass] = ContextVar("pass")


@frozen(eq=False)
class Band:
    """What each token sees of its row: at most `left` tokens before it and `right` behind it."""

    left: int
    right: int
    _masks: dict[int, torch.Tensor] = field(factory=dict)

    def mask(self, width: int, device: torch.device) -> torch.Tensor:
        """(width, width) bool, by query and key."""
        if width not in self._masks:
            everything = torch.ones((width, width), dtype=torch.bool, device=device)
            self._masks[width] = everything.tril(self.right).triu(-self.left)
        return self._masks[width]


def attend_by_length(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: Pass, *, band: Band, scale: float | None
) -> torch.Tensor:
    """Attention within each row, over the rows of one length at a time.

    Args:
        query: (heads, tokens, size).
        key: (key heads, tokens, size); several heads of `query` may share one.
        value: as `key`.
        rows: where the rows lie; tokens behind the last one are not attended.
        band: what a token sees of its row.
        scale: of the products; None for 1 / sqrt(size).

    Returns:
        (tokens, heads, size).
    """
    heads, tokens, _ = query.shape
    context = query.new_empty((tokens, heads, value.shape[-1]))
    context[sum(number * width for _, number, width in rows.groups) :] = 0
    for (start, number, width), seen in zip(rows.groups, rows.seen, strict=True):
        cells = slice(start, start + number * width)
        queries, keys, values = (
            each[:, cells].unflatten(1, (number, width)).transpose(0, 1) for each in (query, key, value)
        )
        is_full = band.left >= width - 1 and band.right >= width - 1
        is_causal = not is_full and band.left >= width - 1 and band.right == 0 and seen is None
        mask = None if is_full or is_causal else band.mask(width, query.device)
        if seen is not None:
            mask = seen if mask is None else seen & mask
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=key.shape[0] != heads
        )
        context[cells].view(number, width, heads, -1).copy_(attended.transpose(1, 2))
    return context


def attend_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: Pass, *, band: Band, scale: float | None
) -> torch.Tensor:
    """As `attend_by_length`, by one kernel for all rows: CUDA and half precision only, and all tokens are seen."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - needs a build with CUDA

    if rows.ends is None:
        msg = "rows have no ends on the device"
        raise ValueError(msg)
    queries, keys, values = (each.transpose(0, 1).contiguous() for each in (query, key, value))
    left, right = (-1 if side >= rows.longest - 1 else side for side in (band.left, band.right))
    context = varlen_attn(
        queries,
        keys,
        values,
        cu_seq_q=rows.ends,
        cu_seq_k=rows.ends,
        max_q=rows.widest,
        max_k=rows.widest,
        scale=scale,
        window_size=(left, right),
        enable_gqa=key.shape[0] != query.shape[0],
    )
    return cast("torch.Tensor", context)


def _attention(  # noqa: PLR0917
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Band | None,
    scaling: float | None = None,
    is_causal: bool | None = None,  # noqa: FBT001 - transformers' signature
    **more: Any,  # noqa: ANN401
) -> tuple[torch.Tensor, None]:
    unsupported = [name for name in _UNSUPPORTED if more.get(name) is not None]
    if unsupported:
        msg = f"{type(module).__name__} passes {unsupported[0]}"
        raise NotImplementedError(msg)
    rows, band = _PASS.get(), attention_mask
    if band is None:
        # A class that makes no mask unless it is given one.
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        band = Band(rows.longest, 0 if causal else rows.longest)
    attend = attend_by_length if rows.ends is None else attend_varlen
    return attend(query[0], key[0], value[0], rows, band=band, scale=scaling)[None], None


def _mask(*, mask_function: Callable[..., Any], device: torch.device, **_: object) -> Band:
    """The band that transformers' mask function describes within the longest row."""
    rows = _PASS.get()
    bands = rows.bands
    number = len(bands.made)
    band = Band(*bands.known[number]) if number < len(bands.known) else _band(mask_function, rows, device)
    bands.made.append((band.left, band.right))
    return band


def _band(mask_function: Callable[..., Any], rows: Pass, device: torch.device) -> Band:
    start, width = rows.groups[-1][0], rows.longest
    places = torch.arange(start, start + width, device=device)
    seen = torch.as_tensor(mask_function(0, 0, places[:, None], places[None, :])).expand(width, width)
    band = Band(int(seen[:, 0].sum()) - 1, int(seen[0].sum()) - 1)
    if not torch.equal(seen, band.mask(width, device)):
        msg = "tokens see others than those within a distance"
        raise NotImplementedError(msg)
    return band


AttentionInterface.register(PACKED, _attention)
AttentionMaskInterface.register(PACKED, _mask)
