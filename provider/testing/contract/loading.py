"""The contract of `load` and `close`, and of what a backend says about itself."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from provider.backends import (
    Backend,
    BackendOptions,
    BackendTraits,
    BackendUnavailable,
    ChecksOptions,
    InvalidModel,
    ModelSpec,
    own_options,
)
from provider.testing.contract.base import BatchOf, ContractBase

_WEIGHTS = ("*.safetensors", "*.onnx", "*.bin", "*.xml")


class LoadingContract(ContractBase):
    """Loading, refusing and closing."""

    def test_it_has_every_part_of_the_protocol(self, backend: Backend) -> None:
        """`Options`, `concurrent`, `traits`, `load`, `run` and `close`."""
        assert isinstance(backend, Backend), "compare your class with provider.backends.Backend, name by name"
        assert isinstance(backend.traits, BackendTraits), "`traits` is a BackendTraits, set by `load`"
        assert isinstance(type(backend).concurrent, bool), "`concurrent` is True or False, on the class"

    def test_its_options_have_defaults(self, backend: Backend) -> None:
        """A model whose configuration has no `options:` must load."""
        options = type(backend).Options
        assert attrs.has(options), "make `Options` an attrs class: its fields are what `options:` is checked against"
        required = [each.name for each in attrs.fields(options) if each.default is attrs.NOTHING]
        assert not required, "give every field of `Options` a default"

    def test_it_says_what_it_runs_on(self, backend: Backend) -> None:
        """The traits are shown to users and steer the batcher."""
        traits = backend.traits
        for name in ("device", "dtype"):
            value = getattr(traits, name)
            assert isinstance(value, str), f"traits.{name} is shown to users: a string such as 'cpu' or 'float32'"
            assert value not in ("", "auto"), f"traits.{name} says what `auto` turned out to be"
        assert isinstance(traits.padding_is_free, bool), "traits.padding_is_free is True or False"
        assert isinstance(traits.batch_tokens, int), "traits.batch_tokens is a whole number of tokens"
        assert traits.batch_tokens > 0, "traits.batch_tokens is the size of batch that you are fastest at"
        try:
            json.dumps(dict(traits.extra), allow_nan=False)
        except (TypeError, ValueError) as exc:
            pytest.fail(f"traits.extra goes into /v1/models: plain JSON values only ({exc})")

    def test_an_unknown_device_is_refused_with_those_there_are(self, backend: Backend, spec: ModelSpec) -> None:
        """BackendUnavailable, in one line that names what was got and what is allowed."""
        kind = backend.traits.device.partition(":")[0]
        _check_refusal(lambda: self.load(spec, device="abacus"), "device", "abacus", allowed=kind)
        self._check_early_refusal(device="abacus")

    def test_an_unknown_dtype_is_refused_with_those_there_are(self, backend: Backend, spec: ModelSpec) -> None:
        """BackendUnavailable, in one line that names what was got and what is allowed."""
        _check_refusal(lambda: self.load(spec, dtype="float3"), "dtype", "float3", allowed=backend.traits.dtype)
        self._check_early_refusal(dtype="float3")

    def _check_early_refusal(self, **wrong: str) -> None:
        if isinstance(self.backend_class, ChecksOptions):
            own = own_options(self.backend_class.__name__, self.backend_class, self.options)
            right = BackendOptions(device=self.device, dtype=self.dtype, own=own)
            self.backend_class.check_options(right)
            with pytest.raises(BackendUnavailable):
                self.backend_class.check_options(attrs.evolve(right, **wrong))

    def test_a_folder_without_weights_is_refused_by_load(
        self, backend: Backend, spec: ModelSpec, batch_of: BatchOf, tmp_path: Path
    ) -> None:
        """InvalidModel or BackendUnavailable in one line; a backend that needs no weights does not miss them."""
        bare = Path(shutil.copytree(spec.folder, tmp_path / "bare", ignore=shutil.ignore_patterns(*_WEIGHTS)))
        tasks = tuple(_moved(task, spec.folder, bare) for task in spec.tasks)
        # Another fingerprint: nothing that was kept of the whole model may stand in.
        without = attrs.evolve(spec, folder=bare, tasks=tasks, fingerprint="0" * 16)
        raised, loaded = _attempt(lambda: self.load(without))
        if loaded is None:
            assert isinstance(raised, InvalidModel | BackendUnavailable), (
                f"turn the {type(raised).__name__} into InvalidModel, with what is missing and what to do"
            )
            assert _is_one_line(raised), "say in one line which file is missing and what to do"
            return
        batch = batch_of([4])
        with contextlib.closing(loaded):
            assert not self.unlike(loaded.run(batch), backend.run(batch)), (
                "`load` took a folder without weights: read them there, and raise InvalidModel if they are missing"
            )

    def test_it_loads_the_same_model_again(self, backend: Backend, spare: Backend, batch_of: BatchOf) -> None:
        """Weights come from the folder, all of them."""
        batch = batch_of([4, 9])
        with contextlib.closing(spare):
            assert not self.unlike(spare.run(batch), backend.run(batch)), (
                "something is drawn at random in `load`: a layer that the weights do not have, or calibration"
            )

    def test_it_takes_any_number_of_threads(self, backend: Backend, spec: ModelSpec, batch_of: BatchOf) -> None:
        """`options.threads` changes the speed and nothing else."""
        batch = batch_of([4, 9])
        with contextlib.closing(self.load(spec, threads=3)) as threaded:
            assert not self.unlike(threaded.run(batch), backend.run(batch)), (
                "the number of threads may change the speed, not the outputs"
            )

    def test_it_may_be_closed_twice(self, spare: Backend) -> None:
        """`close` is idempotent."""
        spare.close()
        try:
            spare.close()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
            pytest.fail(f"the second `close` has nothing left to do, and raises nothing ({exc!r})")

    def test_it_refuses_to_run_once_it_is_closed(self, spare: Backend, batch_of: BatchOf) -> None:
        """An exception, rather than outputs from freed memory or the end of the process."""
        spare.close()
        with contextlib.suppress(Exception):
            spare.run(batch_of([4]))
            pytest.fail("remember in `close` that it is closed, and raise in `run`")


def _moved(part: Any, old: Path, new: Path) -> Any:  # noqa: ANN401 - of a task's spec
    """`part` with the files that it names inside the folder `old` in `new`."""
    if isinstance(part, Path):
        return new / part.relative_to(old)
    if isinstance(part, tuple):
        return tuple(_moved(each, old, new) for each in part)
    if not attrs.has(type(part)):
        return part
    fields = attrs.fields_dict(type(part))
    return attrs.evolve(part, **{name: _moved(getattr(part, name), old, new) for name in fields})


def _attempt(load: Callable[[], Backend]) -> tuple[Exception | None, Backend | None]:
    try:
        return None, load()
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is looked at
        return exc, None


def _check_refusal(load: Callable[[], Backend], what: str, value: str, *, allowed: str) -> None:
    raised, _ = _attempt(load)
    assert raised is not None, f"raise BackendUnavailable in `load` for a {what} that you do not have, here {value!r}"
    assert isinstance(raised, BackendUnavailable), f"turn the {type(raised).__name__} into BackendUnavailable"
    assert _is_one_line(raised), f"say in one line that the {what} is unknown"
    assert value in str(raised), f"name the {what} that was asked for in the message"
    assert allowed.casefold() in str(raised).casefold(), f"name every {what} that is allowed in the message"


def _is_one_line(exc: Exception) -> bool:
    return bool(str(exc).strip()) and "\n" not in str(exc).strip()
