"""Encoders of the BERT family over rows without padding.

The plain way fills the batch up to a rectangle, and every matrix product pays for the filling. Here the tokens of all
rows stand one behind the other, so that products and normalisations run over real tokens only; attention, where rows
must not see each other, runs over the rows of one length at a time. Query, key and value come from one product.

The arithmetic is that of transformers' `BertModel` (`models/bert/modeling_bert.py`, and `modeling_roberta.py` for the
positions), in inference: same weights, same order, no dropout. Where our own kernels are the fastest for linear layers,
they compute all of it, in one call without the interpreter lock.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.bert_layers import ACTIVATIONS, NativeLayers, Rows, TorchLayers
from provider.backends.torch.blocks import Block, pooled
from provider.backends.torch.device import CPU
from provider.backends.torch.int8 import int8_linear
from provider.backends.torch.linear import Step, bfloat16_speedup, fastest_linear, speedup, uncopied_linear
from provider.domain import PoolingMode, TokenBatch


class PackedBert:
    """A BERT-family encoder that needs no padding.

    Attributes:
        linear: what computes the linear layers: `torch`, `onednn`, `native` or `int8`. With `native` our own kernels
            compute all layers.
        make_linear: makes a layer computed by it.
        activation: of the feed-forward layers.
        bfloat16_speedup: how many times as fast they would be in bfloat16, measured; None if they are not float32.
        int8_speedup: how many times as fast they are in int8 as in float32, measured; None if they are not int8.
    """

    def __init__(
        self,
        checkpoint: BertCheckpoint,
        *,
        typed: bool = False,
        int8: bool = False,
        measured: bool = True,
        helped: bool = False,
    ) -> None:
        """Use `supports` first.

        Args:
            checkpoint: the weights.
            typed: whether batches may have types of tokens, as those of text pairs do.
            int8: whether linear layers run in int8; the checkpoint is float32 then.
            measured: whether the fastest way is looked for; else torch runs on the checkpoint's own weights.
            helped: whether a pass that is the only one may use a second core.
        """
        self._pad_id = checkpoint.pad_id
        positions = checkpoint.typed_positions() if typed else checkpoint.positions()
        self._places_of_a_type = len(checkpoint.positions()) if typed else 0
        example = checkpoint.linear("encoder.layer.0.intermediate.dense")
        self.linear: str
        self.make_linear: Callable[..., Step]
        if not measured:
            self.linear, self.make_linear = "torch", uncopied_linear
        else:
            self.linear, self.make_linear = ("int8", int8_linear) if int8 else fastest_linear(*example)
        self.activation = ACTIVATIONS[checkpoint.activation]
        is_full = checkpoint.dtype == torch.float32 and not int8 and measured
        self.int8_speedup = round(speedup(int8_linear, *example), 2) if int8 else None
        self.bfloat16_speedup = round(bfloat16_speedup(self.make_linear, *example), 2) if is_full else None
        native = NativeLayers.of(checkpoint, positions, helped=helped) if self.linear == "native" else None
        self._layers = native or TorchLayers(checkpoint, positions, self.make_linear)

    @staticmethod
    def supports(checkpoint: BertCheckpoint) -> bool:
        """Whether this module computes what the checkpoint asks for."""
        return checkpoint.activation in ACTIVATIONS

    def pooled(self, batch: TokenBatch, modes: Sequence[PoolingMode]) -> torch.Tensor:
        """Run the encoder and pool: (rows, len(modes) * hidden_size) float32, in the order of the batch."""
        if tuple(modes) != ("cls",) or batch.skips.any() or batch.unattended is not None:
            return pooled(self.blocks(batch), modes, CPU)
        # Of the last layer only the first token of each row is wanted.
        rows = self._rows(batch)
        states = self._layers.run(rows, firsts=True)
        return states.float()[torch.from_numpy(np.argsort(rows.order))]

    def blocks(self, batch: TokenBatch) -> list[Block]:
        """Run the encoder: hidden states of all rows, those of one length together."""
        rows = self._rows(batch)
        states = self._layers.run(rows)
        lengths, skips = CPU.put([rows.lengths, batch.skips[rows.order].astype(np.int64)])
        blocks, row = [], 0
        for at, number, width in rows.groups:
            hidden, of_block = states[at : at + number * width].view(number, width, -1), slice(row, row + number)
            blocks.append(Block(rows.order[of_block], hidden, lengths[of_block], skips[of_block]))
            row += number
        return blocks

    def _rows(self, batch: TokenBatch) -> Rows:
        order = np.argsort(batch.lengths, kind="stable")
        lengths = batch.lengths[order]
        ids = [batch.row(i) for i in order]
        places = [self._places(batch, i) for i in order]
        seen = lengths if batch.unattended is None else lengths - batch.unattended[order]
        return Rows(order, np.concatenate(ids, dtype=np.int64), np.concatenate(places), lengths, seen)

    def _places(self, batch: TokenBatch, i: int) -> NDArray[np.int64]:
        """Where in the table of positions each token of row `i` stands; a text may contain the padding token."""
        row = batch.row(i)
        places = np.arange(len(row))
        if self._pad_id is not None:
            counted = np.not_equal(row, self._pad_id).astype(np.int64)
            places = np.cumsum(counted) * counted
        if batch.type_ids is None:
            return places
        types = batch.type_ids[batch.offsets[i] : batch.offsets[i + 1]]
        return places + types.astype(np.int64) * self._places_of_a_type
