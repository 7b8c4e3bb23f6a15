"""Logits of classifiers and causal rerankers, from batches of token ids."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.blocks import Block, in_order
from provider.backends.torch.device import Device
from provider.backends.torch.packed_bert import PackedBert
from provider.domain import ScoreTask, TokenBatch


class ClassificationHead(torch.nn.Module):
    """From a row's first token to its logits: a dense layer, tanh, a linear layer.

    It is that of transformers' `BertForSequenceClassification`, whose dense layer is the pooler, and of
    `RobertaForSequenceClassification` (`modeling_roberta.py`, `RobertaClassificationHead`).
    """

    def __init__(self, dense: tuple[torch.Tensor, torch.Tensor], outer: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Take weight and bias of both layers; use `of`."""
        super().__init__()
        self.dense_weight, self.dense_bias = (torch.nn.Buffer(each) for each in dense)
        self.outer_weight, self.outer_bias = (torch.nn.Buffer(each) for each in outer)

    @classmethod
    def of(cls, checkpoint: BertCheckpoint, labels: int) -> Self | None:
        """The head in `checkpoint`; None if its tensors are not exactly as expected."""
        is_bert = checkpoint.pad_id is None
        names = ("bert.pooler.dense", "classifier") if is_bert else ("classifier.dense", "classifier.out_proj")
        layers = []
        for name, width in zip(names, (checkpoint.hidden_size, labels), strict=True):
            weight, bias = (checkpoint.outer(f"{name}.{part}") for part in ("weight", "bias"))
            if weight is None or bias is None:
                return None
            if tuple(weight.shape) != (width, checkpoint.hidden_size) or tuple(bias.shape) != (width,):
                return None
            layers.append((weight, bias))
        return cls(*layers)

    def forward(self, first: torch.Tensor) -> torch.Tensor:
        """`first` (rows, hidden_size) to logits (rows, labels), float32."""
        # It runs in the model's dtype, as all of the model does.
        states = functional.linear(first.to(self.dense_weight.dtype), self.dense_weight, self.dense_bias)
        return functional.linear(torch.tanh(states), self.outer_weight, self.outer_bias).float()


class PackedClassifier:
    """A classifier of the BERT family over rows without padding."""

    def __init__(self, encoder: PackedBert, head: ClassificationHead) -> None:
        """Take an encoder made with `typed`, and the head of the same checkpoint."""
        self.encoder, self._head = encoder, head

    def logits(self, batch: TokenBatch) -> torch.Tensor:
        """(rows, labels) float32, in the order of the batch."""
        logits: torch.Tensor = self._head(self.encoder.pooled(batch, ("cls",)))
        return logits


class ScoreModel(torch.nn.Module):
    """transformers' sequence classifier or causal language model, from tensors to the logits of each row.

    Attributes:
        side: where the rectangle has to be filled.
        types: types of tokens are below it; 0 where the class takes none.
    """

    def __init__(self, model: torch.nn.Module, task: ScoreTask) -> None:
        """Take over a model in inference mode.

        Args:
            model: with `logits` in its output.
            task: what becomes of them.
        """
        super().__init__()
        self.model, self._task = model, task
        # A causal model answers behind the last token: with the padding before the row, that is the last column.
        self.side: Literal["left", "right"] = "left" if task.kind == "logits" else "right"
        accepted = inspect.signature(model.forward).parameters
        config: Any = model.config
        # Classes without a table of types compare them, or look them up among the tokens.
        types = int(getattr(config, "type_vocab_size", config.vocab_size))
        self.types = types if "token_type_ids" in accepted else 0
        # Of a causal model only the last column's logits are wanted, and no model continues a text here.
        more = {"use_cache": False} | ({"logits_to_keep": 1} if task.kind == "logits" else {})
        self._more = {name: value for name, value in more.items() if name in accepted}

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (rows, labels) of a rectangle (rows, width) that is filled on `side`.

        Args:
            input_ids: int64.
            attention_mask: int64, 0 on padding; None where there is none, as attention without a mask is faster.
            token_type_ids: int64; None where all are 0, or where the class takes none.
        """
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits: torch.Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, **types, **self._more
        ).logits
        if self._task.kind == "classifier":
            return logits
        last = logits[:, -1]
        match: torch.Tensor = last[:, [self._task.true_id]]
        return match if self._task.false_id is None else match - last[:, [self._task.false_id]]


class PackedScorer:
    """A transformers model with a head over rows without padding."""

    def __init__(
        self,
        blocks: Callable[[TokenBatch], list[Block]],
        head: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        device: Device,
    ) -> None:
        """Take both parts.

        Args:
            blocks: the encoder: hidden states of the last tokens of each row, or of all, without padding.
            head: from ids (rows, width) and hidden states (rows, width, hidden_size) to logits (rows, labels).
            device: where they are.
        """
        self._blocks, self._head, self._device = blocks, head, device

    def logits(self, batch: TokenBatch) -> torch.Tensor:
        """(rows, labels), in the order of the batch."""
        blocks = self._blocks(batch)
        ids = self._device.put([_last_ids(batch, block) for block in blocks])
        logits = [self._head(rows, block.states) for rows, block in zip(ids, blocks, strict=True)]
        return in_order(logits, blocks, self._device)


def _last_ids(batch: TokenBatch, block: Block) -> NDArray[np.int64]:
    width = block.states.shape[1]
    cells = batch.offsets[block.rows + 1][:, None] + np.arange(-width, 0)
    return np.asarray(batch.ids[cells], np.int64)


class PaddedScorer:
    """A `ScoreModel` over the padded rectangle of a batch."""

    def __init__(self, model: ScoreModel, device: Device, *, pad_id: int) -> None:
        """Take over a model that is on `device`; `pad_id` fills the rectangle."""
        self._model, self._device, self._pad_id = model, device, pad_id

    def logits(self, batch: TokenBatch) -> torch.Tensor:
        """(rows, labels), in the order of the batch."""
        ids, mask = batch.padded(pad_id=self._pad_id, side=self._model.side)
        has_mask, has_types = not mask.all(), self._model.types > 0 and batch.type_ids is not None
        arrays = [ids, *([mask] if has_mask else [])]
        arrays += [batch.padded_types(side=self._model.side)] if has_types else []
        tokens, *more = self._device.put(arrays)
        logits: torch.Tensor = self._model(tokens, more[0] if has_mask else None, more[-1] if has_types else None)
        return logits
