"""The padded runner: an engine gets what it takes, and pooling, head, refusals and closing are done for it."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from provider.backends import (
    BackendOptions,
    BackendTraits,
    BackendUnavailable,
    Features,
    ModelSpec,
    PaddedBackend,
    TokenBatch,
    arrays_of,
)
from provider.domain import DENSE, SCORES, DenseTask, ScoreTask

TRAITS = BackendTraits("cpu", "float32", padding_is_free=False, batch_tokens=512)


class Here(PaddedBackend):
    devices: ClassVar[tuple[str, ...]] = ("cpu", "abacus")
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE, SCORES})


def spec_of(*tasks: Any) -> ModelSpec:
    return ModelSpec("m", Path(), "none", 2, 8, None, "f", tasks, pad_id=9)


def rows(*lengths: int) -> TokenBatch:
    return TokenBatch.of_rows([np.arange(1, length + 1, dtype=np.int32) for length in lengths])


def test_hidden_states_are_pooled_over_each_rows_own_tokens() -> None:
    def engine(ids: Any, mask: Any) -> Any:
        # The padding's states are large: they must not count.
        return np.stack([np.where(mask == 1, ids, 1000), mask], axis=-1).astype(np.float32)

    backend = Here(spec_of(DenseTask(2)), engine, TRAITS)
    assert backend.run(rows(3, 1))[DENSE].tolist() == [[2.0, 1.0], [1.0, 1.0]]
    backend.close()
    backend.close()
    with pytest.raises(RuntimeError, match="the backend is closed"):
        backend.run(rows(1))


def test_an_engine_gets_its_inputs_by_place_in_the_width_it_wants() -> None:
    seen = []

    def engine(*arrays: Any) -> Any:
        seen.extend(arrays)
        return np.zeros((*arrays[0].shape, 2), np.float32)

    names = ("position_ids", "input_ids", "token_type_ids", "attention_mask")
    Here(spec_of(DenseTask(2)), engine, TRAITS, inputs=names, multiple_of=4).run(rows(3))
    assert [array.tolist() for array in seen] == [[[0, 1, 2, 3]], [[1, 2, 3, 9]], [[0, 0, 0, 0]], [[1, 1, 1, 0]]]
    assert {array.dtype for array in seen} == {np.dtype(np.int64)}
    assert all(array.flags.c_contiguous for array in seen)


def test_logits_of_a_classifier_are_the_callers_own() -> None:
    logits = np.array([[1.0, 2.0]], np.float32)
    backend = Here(spec_of(ScoreTask(("a", "b"))), lambda *_: logits, TRAITS)
    row = Features(np.array([1, 2], np.int32), type_ids=np.array([0, 1], np.int32), outputs=(SCORES,))
    with pytest.raises(ValueError, match="takes no token_type_ids"):
        backend.run(TokenBatch.of([row]))
    answer = backend.run(TokenBatch.of_rows([row.ids], outputs=(SCORES,)))[SCORES]
    logits[:] = 0
    assert np.array_equal(answer, [[1.0, 2.0]])


def test_types_of_a_pair_reach_the_engine() -> None:
    ids = np.array([[4, 5]])
    assert arrays_of(["token_type_ids"], ids, np.ones_like(ids), np.array([[0, 1]]))[0].tolist() == [[0, 1]]


def test_devices_and_dtypes_are_refused_alike() -> None:
    assert Here.choose(BackendOptions()) == ("cpu", "float32")
    assert Here.choose(BackendOptions(device="abacus"))[0] == "abacus"
    with pytest.raises(BackendUnavailable, match=r"model.device: unknown device 'x'; allowed are auto, cpu, abacus"):
        Here.check_options(BackendOptions(device="x"))
    with pytest.raises(BackendUnavailable, match=r"model.dtype: unknown dtype 'x'; allowed are auto, float32"):
        Here.check_options(BackendOptions(dtype="x"))
