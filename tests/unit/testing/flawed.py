"""A sound backend, and backends with one flaw each, under the contract. `test_contract` runs this file by itself.

The model is one layer of its own kind, in numpy: tokens, their positions, and the mean of the row as what attention
would see. It gives vectors of texts and of tokens, and logits of pairs. Backends compute it over a padded rectangle, as
most of them do.
"""

import threading
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from attrs import evolve, field, frozen
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from provider.backends import (
    DENSE,
    MULTI_VECTOR,
    SCORES,
    BackendOptions,
    BackendTraits,
    BackendUnavailable,
    InvalidModel,
    ModelSpec,
    NoOptions,
    TokenBatch,
    Vectors,
    pool,
)
from provider.domain import DenseTask, MultiVectorTask, ScoreTask, TokenizerSpec
from provider.testing import BackendContract
from provider.testing.contract.comparison import row_by_row

DIMENSION, VOCABULARY, POSITIONS = 24, 60, 40


class Sound:
    """Does everything right. Each flaw below replaces one step."""

    Options: ClassVar[type] = NoOptions
    concurrent: ClassVar[bool] = True
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE, MULTI_VECTOR, SCORES})

    def __init__(self, spec: ModelSpec, weights: Any, options: BackendOptions) -> None:
        self.spec, self.weights, self.options = spec, weights, options
        self.traits = BackendTraits("cpu", "float32", padding_is_free=False, batch_tokens=512)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        cls.check(options)
        return cls(spec, cls.read(spec.folder / "model.safetensors"), options)

    @classmethod
    def check(cls, options: BackendOptions) -> None:
        cls.check_device(options.device)
        if options.dtype not in ("auto", "float32"):
            msg = f"unknown dtype {options.dtype!r}; allowed are auto and float32"
            raise BackendUnavailable(msg)

    @classmethod
    def check_device(cls, device: str) -> None:
        if device not in ("auto", "cpu"):
            msg = f"unknown device {device!r}; allowed are auto and cpu"
            raise BackendUnavailable(msg)

    @classmethod
    def read(cls, path: Path) -> Any:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as exc:
            msg = f"{path} cannot be read; copy it there, or download the model again"
            raise InvalidModel(msg) from exc

    def run(self, batch: TokenBatch) -> dict[str, Any]:
        if self.weights is None:
            msg = "the backend is closed"
            raise RuntimeError(msg)
        vectors = self.pooled(batch)
        scores = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        answers = {DENSE: vectors, SCORES: scores, MULTI_VECTOR: self.tokens(batch)}
        return {name: answers[name] for name in batch.outputs}

    def pooled(self, batch: TokenBatch) -> Vectors:
        hidden, mask = self.states(batch)
        vectors: Vectors = pool(np, hidden, mask.sum(axis=1), self.skips(batch), self.spec.dense.pooling)
        return vectors

    def tokens(self, batch: TokenBatch) -> Any:
        hidden, _ = self.states(batch)
        return [np.ascontiguousarray(row[:n], np.float32) for row, n in zip(hidden, batch.lengths, strict=True)]

    def states(self, batch: TokenBatch) -> Any:
        ids, mask = self.rectangle(batch)
        return self.hidden(ids, mask) + self.types(batch)[:, :, None] * self.weights["second"], mask

    def types(self, batch: TokenBatch) -> Any:
        return batch.padded_types()

    def rectangle(self, batch: TokenBatch) -> Any:
        return batch.padded(pad_id=self.spec.pad_id)

    def hidden(self, ids: Any, mask: Any) -> Any:
        tokens = self.weights["tokens"][ids] + self.weights["positions"][: ids.shape[1]]
        seen = (tokens * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None]
        return tokens + np.tanh(seen)[:, None, :]

    def skips(self, batch: TokenBatch) -> Any:
        return batch.skips

    def close(self) -> None:
        self.weights = None


class ConcurrentByAWord(Sound):
    concurrent: ClassVar[Any] = "yes"


@frozen
class Demanding:
    level: int = field()


class OptionWithoutADefault(Sound):
    Options = Demanding


class DtypeStaysAuto(Sound):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.traits = evolve(self.traits, dtype="auto")


class BatchOfNoTokens(Sound):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.traits = evolve(self.traits, batch_tokens=0)


class ExtraThatIsNoJson(Sound):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.traits = evolve(self.traits, extra={"folder": self.spec.folder})


class TakesAnyDevice(Sound):
    @classmethod
    def check_device(cls, device: str) -> None:
        pass


class DoesNotSayWhichDevicesThereAre(Sound):
    @classmethod
    def check_device(cls, device: str) -> None:
        if device not in ("auto", "cpu"):
            msg = f"unknown device {device!r}"
            raise BackendUnavailable(msg)


class DeviceErrorOfALibrary(Sound):
    @classmethod
    def check_device(cls, device: str) -> None:
        if device not in ("auto", "cpu"):
            msg = f"invalid device {device!r}: expected one of cpu, cuda"
            raise RuntimeError(msg)


class TakesAnyDtype(Sound):
    @classmethod
    def check(cls, options: BackendOptions) -> None:
        cls.check_device(options.device)


class WeightsErrorOfALibrary(Sound):
    @classmethod
    def read(cls, path: Path) -> Any:
        return load_file(path)


class WeightsErrorOfManyLines(Sound):
    @classmethod
    def read(cls, path: Path) -> Any:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as exc:
            msg = f"Traceback (most recent call last):\n{exc}"
            raise InvalidModel(msg) from exc


class MakesUpMissingWeights(Sound):
    @classmethod
    def read(cls, path: Path) -> Any:
        return load_file(path) if path.exists() else made_up(seed=5)


class DrawsALayerAtRandom(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        return (super().pooled(batch) + self.layer).astype(np.float32)

    @cached_property
    def layer(self) -> Any:
        return np.random.default_rng().normal(0, 0.003, DIMENSION)


class AnswersByThreads(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        vectors = super().pooled(batch)
        return np.roll(vectors, 1, axis=1) if self.options.threads > 1 else vectors


class ClosesOnce(Sound):
    is_open = True

    def close(self) -> None:
        if not self.is_open:
            msg = "already closed"
            raise RuntimeError(msg)
        self.is_open, self.weights = False, None


class EmbedsWhenClosed(Sound):
    def close(self) -> None:
        pass


class AnswersDoubles(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        return super().pooled(batch).astype(np.float64)  # type: ignore[return-value]


class AnswersColumnByColumn(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        return np.asfortranarray(super().pooled(batch))


class PoolsTheFirstToken(Sound):
    def __init__(self, spec: ModelSpec, *args: Any) -> None:
        super().__init__(evolve(spec, tasks=(evolve(spec.dense, pooling=("cls",)),)), *args)


class Normalises(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        vectors = super().pooled(batch)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class SqueezesOneToken(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        return super().pooled(batch) if batch.tokens > 1 else super().pooled(batch).squeeze()


class FailsAtTheLongest(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        vectors = super().pooled(batch)
        return vectors * np.float32("nan") if batch.lengths.max() == POSITIONS else vectors


class MasksThePaddingId(Sound):
    def rectangle(self, batch: TokenBatch) -> Any:
        ids, _ = super().rectangle(batch)
        return ids, (ids != self.spec.pad_id).astype(np.int64)


class IgnoresSkips(Sound):
    def skips(self, batch: TokenBatch) -> Any:
        return np.zeros_like(batch.skips)


class SkipsPastTheLastToken(Sound):
    def skips(self, batch: TokenBatch) -> Any:
        return np.where(batch.skips == batch.lengths - 1, 0, batch.skips)


class TakesHalvesForAPair(Sound):
    def types(self, batch: TokenBatch) -> Any:
        if batch.type_ids is not None:
            return super().types(batch)
        places = np.arange(batch.lengths.max())
        # Only of this row, to show this flaw.
        return (places >= batch.lengths[:, None] // 2) * (batch.lengths.tolist() == [12])


class SeesWhatIsNotAttended(Sound):
    def rectangle(self, batch: TokenBatch) -> Any:
        return evolve(batch, unattended=None).padded(pad_id=self.spec.pad_id)


class SortsAndForgets(Sound):
    def run(self, batch: TokenBatch) -> dict[str, Any]:
        order = np.argsort(batch.lengths, kind="stable")
        answers = super().run(batch).items()
        return {name: rows[order] if name != MULTI_VECTOR else [rows[i] for i in order] for name, rows in answers}


class PadsWithoutAMask(Sound):
    def hidden(self, ids: Any, mask: Any) -> Any:
        return super().hidden(ids, np.ones_like(mask))


class MixesRowsOfOneLength(Sound):
    def hidden(self, ids: Any, mask: Any) -> Any:
        hidden = super().hidden(ids, mask)
        # Rows of several tokens, all of one length.
        return np.tanh(hidden) + hidden.mean(axis=0) if len(ids) > 4 and mask.all() else hidden


class EmbedsTheFirst64Rows(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        vectors = super().pooled(batch)
        vectors[64:] = 1
        return vectors


class DropsOut(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        vectors = super().pooled(batch)
        return (vectors * np.random.default_rng().normal(1, 1e-4, vectors.shape)).astype(np.float32)


class RemembersTheLastBatch(Sound):
    seen = 0

    def pooled(self, batch: TokenBatch) -> Vectors:
        # Only batches of 30 tokens leave a trace, and only the next one sees it.
        vectors = super().pooled(batch)
        last, self.seen = self.seen, batch.tokens
        return vectors + np.arange(DIMENSION, dtype=np.float32) if last == 30 and batch.tokens == 12 else vectors


class HandsOutItsBuffer(Sound):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.local = threading.local()

    def pooled(self, batch: TokenBatch) -> Vectors:
        vectors = super().pooled(batch)
        # One buffer a shape and a thread, as engines with output bindings have; only this shape, to show this flaw.
        if batch.tokens != 10 or batch.rows != 2:
            return vectors
        if not hasattr(self.local, "buffer"):
            self.local.buffer = np.empty_like(vectors)
        self.local.buffer[:] = vectors
        return self.local.buffer  # type: ignore[no-any-return]


class WritesToItsInput(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        vectors = super().pooled(batch)
        if batch.skips.any() and batch.rows == 2:
            batch.skips.flags.writeable = True
            batch.skips[:] = 0
        return vectors


class BreaksForGood(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        try:
            return super().pooled(batch)
        except IndexError:
            self.weights = {name: np.roll(value, 1) for name, value in self.weights.items()}
            raise


class SharesOneBatchBetweenThreads(Sound):
    def pooled(self, batch: TokenBatch) -> Vectors:
        self.batch = batch
        # Long enough for another thread to put its own there.
        threading.Event().wait(0.002)
        return super().pooled(self.batch)


FLAWS: dict[type[Sound], str] = {
    ConcurrentByAWord: "test_it_has_every_part_of_the_protocol",
    OptionWithoutADefault: "test_its_options_have_defaults",
    DtypeStaysAuto: "test_it_says_what_it_runs_on",
    BatchOfNoTokens: "test_it_says_what_it_runs_on",
    ExtraThatIsNoJson: "test_it_says_what_it_runs_on",
    TakesAnyDevice: "test_an_unknown_device_is_refused_with_those_there_are",
    DoesNotSayWhichDevicesThereAre: "test_an_unknown_device_is_refused_with_those_there_are",
    DeviceErrorOfALibrary: "test_an_unknown_device_is_refused_with_those_there_are",
    TakesAnyDtype: "test_an_unknown_dtype_is_refused_with_those_there_are",
    WeightsErrorOfALibrary: "test_a_folder_without_weights_is_refused_by_load",
    WeightsErrorOfManyLines: "test_a_folder_without_weights_is_refused_by_load",
    MakesUpMissingWeights: "test_a_folder_without_weights_is_refused_by_load",
    DrawsALayerAtRandom: "test_it_loads_the_same_model_again",
    AnswersByThreads: "test_it_takes_any_number_of_threads",
    ClosesOnce: "test_it_may_be_closed_twice",
    EmbedsWhenClosed: "test_it_refuses_to_run_once_it_is_closed",
    AnswersDoubles: "test_it_answers_float32_in_the_form_of_the_task",
    AnswersColumnByColumn: "test_it_answers_float32_in_the_form_of_the_task",
    PoolsTheFirstToken: "test_it_agrees_with_the_reference",
    Normalises: "test_it_leaves_normalising_to_the_engine",
    SqueezesOneToken: "test_it_takes_rows_of_one_token_and_of_as_many_as_the_model_allows",
    FailsAtTheLongest: "test_it_takes_rows_of_one_token_and_of_as_many_as_the_model_allows",
    MasksThePaddingId: "test_every_id_of_the_vocabulary_is_a_token_like_others",
    IgnoresSkips: "test_prompt_tokens_are_left_out_of_pooling",
    SkipsPastTheLastToken: "test_prompt_tokens_are_left_out_of_pooling",
    TakesHalvesForAPair: "test_tokens_without_types_have_type_0",
    SeesWhatIsNotAttended: "test_tokens_that_are_not_attended_are_not_seen",
    SortsAndForgets: "test_it_keeps_the_order_of_the_rows",
    PadsWithoutAMask: "test_a_row_alone_equals_the_same_row_beside_a_long_one",
    MixesRowsOfOneLength: "test_rows_of_one_length_do_not_see_each_other",
    EmbedsTheFirst64Rows: "test_many_rows_are_all_answered",
    DropsOut: "test_it_answers_the_same_again",
    RemembersTheLastBatch: "test_a_batch_does_not_depend_on_the_one_before",
    HandsOutItsBuffer: "test_its_answer_belongs_to_the_caller",
    WritesToItsInput: "test_it_does_not_write_to_its_input",
    BreaksForGood: "test_it_is_usable_after_a_failure",
    SharesOneBatchBetweenThreads: "test_lanes_may_call_it_at_the_same_time_if_it_says_so",
}
"""Each flaw with the test that is meant for it."""

ALSO: dict[type[Sound], set[str]] = {
    AnswersDoubles: {"test_it_takes_rows_of_one_token_and_of_as_many_as_the_model_allows"},
    MasksThePaddingId: {"test_tokens_that_are_not_attended_are_not_seen"},
    SortsAndForgets: {"test_it_answers_float32_in_the_form_of_the_task"},
    DrawsALayerAtRandom: {"test_it_takes_any_number_of_threads"},
    PadsWithoutAMask: {"test_many_rows_are_all_answered", "test_tokens_that_are_not_attended_are_not_seen"},
    PoolsTheFirstToken: {
        "test_tokens_without_types_have_type_0",
        "test_every_id_of_the_vocabulary_is_a_token_like_others",
        "test_it_leaves_normalising_to_the_engine",
        "test_prompt_tokens_are_left_out_of_pooling",
    },
}
"""The few that other tests cannot but see as well."""


def made_up(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {"tokens": (VOCABULARY, DIMENSION), "positions": (POSITIONS, DIMENSION), "second": (DIMENSION,)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


class NumpyContract(BackendContract):
    backend_class = Sound
    # Between the smallest flaw below and rounding.
    most_difference = 0.01

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
        folder = tmp_path_factory.mktemp("numpy")
        save_file(made_up(seed=1), folder / "model.safetensors")
        return ModelSpec(
            name="numpy",
            folder=folder,
            architecture="numpy",
            hidden_size=DIMENSION,
            max_tokens=POSITIONS,
            max_positions=POSITIONS,
            fingerprint="numpy",
            tasks=(
                DenseTask(DIMENSION),
                ScoreTask(labels=tuple(f"label {i}" for i in range(DIMENSION))),
                MultiVectorTask(DIMENSION),
            ),
            tokenizer=TokenizerSpec(type_ids=True),
            vocabulary_size=VOCABULARY,
        )

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, spec: ModelSpec) -> Any:
        sound = Sound.load(spec, BackendOptions())
        return lambda batch: row_by_row(sound.run, batch)


class TestSound(NumpyContract):
    pass


for flaw in FLAWS:
    needs = {"level": 1} if flaw is OptionWithoutADefault else {}
    contract = type(f"Test{flaw.__name__}", (NumpyContract,), {"backend_class": flaw, "options": needs})
    globals()[contract.__name__] = contract
