"""Attention within each row of a batch without padding, called by transformers' own model classes.

transformers looks up a model's attention and its mask by name (`AttentionInterface`, `AttentionMaskInterface`). Under
`PACKED` a model runs on the tokens of all rows, one behind the other, as if they were one row: its products and
normalisations see no padding, and attention comes here. What a token sees is taken from transformers' own mask
function, so that causal models and sliding windows need no case of their own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, cast

import numpy as np
import torch
from attrs import field, frozen
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from provider.domain import TokenBatch

PACKED = "emb_packed"
"""The name, as `attn_implementation`."""

# Arguments of an attention layer that change what it computes, and are not supported here.
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


@frozen(eq=False)
class Rows:
    """Where the rows of a batch lie among its tokens: in order of length, one behind the other.

    Attributes:
        order: places in the batch, (rows,), the shortest row first.
        groups: rows of one length: (first token, rows, length).
        seen: for each group, which tokens others see, (rows, 1, 1, length) bool; None where all are seen.
        starts: where each row starts, and the end of the last one, (rows + 1,) int32, on the device.
    """

    order: NDArray[np.int64]
    groups: tuple[tuple[int, int, int], ...]
    seen: tuple[torch.Tensor | None, ...]
    starts: torch.Tensor

    @classmethod
    def of(cls, batch: TokenBatch, device: torch.device) -> Self:
        """The rows of `batch`."""
        order = np.argsort(batch.lengths, kind="stable")
        lengths = batch.lengths[order]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        groups, seen = [], []
        for width, first, rows in zip(*np.unique(lengths, return_index=True, return_counts=True), strict=True):
            groups.append((int(starts[first]), int(rows), int(width)))
            hidden = np.zeros(rows) if batch.unattended is None else batch.unattended[order[first : first + rows]]
            visible = np.arange(width)[None, :] < (width - hidden)[:, None]
            seen.append(torch.from_numpy(visible[:, None, None, :]).to(device) if hidden.any() else None)
        return cls(order, tuple(groups), tuple(seen), torch.from_numpy(starts.astype(np.int32)).to(device))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.groups[-1][2]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Attention of this thread runs within these rows."""
        token = _ROWS.set(self)
        try:
            yield
        finally:
            _ROWS.reset(token)


_ROWS: ContextVar[Rows] = ContextVar("rows")


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
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: Rows, *, band: Band, scale: float | None
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
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: Rows, *, band: Band, scale: float | None
) -> torch.Tensor:
    """As `attend_by_length`, by one kernel for all rows: CUDA and half precision only, and all tokens are seen."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - needs a build with CUDA

    tokens, end, longest = query.shape[1], sum(number * width for _, number, width in rows.groups), rows.longest
    queries, keys, values = (each[:, :end].transpose(0, 1).contiguous() for each in (query, key, value))
    left, right = (-1 if side >= longest - 1 else side for side in (band.left, band.right))
    context = varlen_attn(
        queries,
        keys,
        values,
        cu_seq_q=rows.starts,
        cu_seq_k=rows.starts,
        max_q=longest,
        max_k=longest,
        scale=scale,
        window_size=(left, right),
        enable_gqa=key.shape[0] != query.shape[0],
    )
    return functional.pad(cast("torch.Tensor", context), (0, 0, 0, 0, 0, tokens - end))


def kernel(query: torch.Tensor, rows: Rows) -> Callable[..., torch.Tensor]:
    """The function that attends on this device and in this dtype."""
    is_half = query.dtype in {torch.float16, torch.bfloat16}
    return (
        attend_varlen if query.is_cuda and is_half and not any(x is not None for x in rows.seen) else attend_by_length
    )


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
    rows, band = _ROWS.get(), attention_mask
    if band is None:
        # A class that makes no mask unless it is given one.
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        band = Band(rows.longest, 0 if causal else rows.longest)
    return kernel(query, rows)(query[0], key[0], value[0], rows, band=band, scale=scaling)[None], None


def _mask(*, mask_function: Callable[..., Any], device: torch.device, **_: object) -> Band:
    """The band that transformers' mask function describes within the longest row."""
    rows = _ROWS.get()
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
