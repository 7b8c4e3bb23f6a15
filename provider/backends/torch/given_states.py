"""The head of a transformers model alone, on hidden states that were computed without padding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from provider.domain import Ids, TokenBatch

# The largest difference that rounding explains, as a share of the outputs' length.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 4e-2, torch.bfloat16: 4e-2}


class _Given(torch.nn.Module):
    """In the place of the encoder of a model with a head: it returns the hidden states that are `_given`."""

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        self.base = base

    def forward(self, *_: object, **__: object) -> BaseModelOutputWithPooling:
        states = _STATES.get()
        pooler = getattr(self.base, "pooler", None)
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=None if pooler is None else pooler(states)
        )


_STATES: ContextVar[torch.Tensor] = ContextVar("states")


@contextmanager
def given(states: torch.Tensor) -> Iterator[None]:
    """In this thread a model that was taken over runs its head alone, on these hidden states."""
    token = _STATES.set(states)
    try:
        yield
    finally:
        _STATES.reset(token)


def take_states(
    model: PreTrainedModel, states: Sequence[torch.Tensor], logits: Sequence[torch.Tensor], batch: TokenBatch
) -> bool:
    """Put `_Given` into a model with a head; False, with the model as it was, if that does not give these logits."""
    name, base = model.base_model_prefix, cast("PreTrainedModel", model.base_model)
    setattr(model, name, _Given(base))
    try:
        for i, (of_row, expected) in enumerate(zip(states, logits, strict=True)):
            with given(of_row[None]):
                if not is_close(model(input_ids=tensor_of(batch.row(i), model.device)).logits[0], expected):
                    break
        else:
            return True
    except Exception:  # noqa: BLE001, S110 - whatever its head fails by, the model stays as it was
        pass
    setattr(model, name, base)
    return False


def is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether rounding in the dtype of `expected` explains the difference."""
    difference = torch.linalg.vector_norm(found.float() - expected.float())
    return bool(difference <= _TOLERANCE[expected.dtype] * torch.linalg.vector_norm(expected.float()))


def tensor_of(ids: Ids, device: torch.device) -> torch.Tensor:
    """(1, tokens) int64."""
    return torch.tensor(ids, dtype=torch.int64, device=device)[None]
