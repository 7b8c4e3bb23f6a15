"""Which backend and dtype are the fastest for a model on this machine, measured within a bounded time.

Every contender is a process of its own. They take turns in short slices, so that a machine that others share favours
nobody; each one's outputs are compared with those of eager PyTorch in float32.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack

import msgspec
import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from provider.backends import BackendOptions, ChecksOptions
from provider.backends.registry import AUTO, find_backend, find_entry_point, own_options
from provider.bench.figures import Spread
from provider.bench.messages import EngineSetup, Load, LoadTask, Outcome, Texts
from provider.bench.processes import ContenderProcess
from provider.bench.rounds import Schedule, run_rounds
from provider.bench.texts import SHIPPED
from provider.doctor.machine import Machine, free_bytes
from provider.domain import ScoreTask
from provider.engine.finding import find_model, read_files
from provider.errors import ContenderFailed, ProviderError
from provider.settings import ModelSettings, Settings

_LOAD = Load(batch=32, concurrency=2)
# Of the time, for loading; the rest is for measuring.
_LOADING_SHARE = 0.7
# What a slice takes beside its own time.
_BETWEEN_SECONDS = 0.5
_SLICE_SECONDS, _SHORTEST_SLICE_SECONDS, _ROUNDS = 0.5, 0.1, 3
_ANSWER_SECONDS = 30.0
_REFERENCE = ("torch", "float32")
# Outputs are compared on so many texts.
_COMPARED = 32
# What float32 may differ by, where sums are added in another order; and half precision, which an accelerator is for.
_FLOAT32_DRIFT, _HALF_DRIFT = 1e-5, 1e-3
# Faster by less is noise, or not worth other numbers.
_NOTABLY, _CLEARLY = 1.05, 1.2
# Below this, outputs are another model's.
_RELATED = 0.9
# A contender must leave so much of the free memory to others.
_FREE_SHARE = 0.5


class Trial(msgspec.Struct, frozen=True):
    """What came of one backend in one dtype.

    Attributes:
        texts_per_second: median over the rounds.
        ratio: to eager PyTorch in float32, median of the rounds.
        agreement: with it: the smallest cosine of a text; for scores, 1 less the largest difference.
        is_exact: whether that is what float32 may differ by.
        problem: why it could not be measured.
    """

    backend: str
    dtype: str
    device: str | None = None
    texts_per_second: float | None = None
    ratio: float | None = None
    agreement: float | None = None
    is_exact: bool = False
    problem: str | None = None

    @property
    def flags(self) -> str:
        """Options that choose it."""
        return f"--backend {self.backend} --dtype {self.dtype}"


class Recommendation(msgspec.Struct, frozen=True):
    """What to serve with.

    Attributes:
        model: its name.
        seconds: that measuring took.
        trials: all contenders, the fastest first.
        exact: the one to use; None where none gives the outputs of the reference.
        faster: one that is clearly faster, and gives other outputs: to be proven with `emb-provider verify`.
    """

    model: str
    seconds: float
    trials: list[Trial]
    exact: Trial | None
    faster: Trial | None


def recommend(
    settings: Settings,
    machine: Machine,
    backends: Sequence[str] = (),
    *,
    most_seconds: float,
    on_step: Callable[[str], None],
    exact: bool = False,
) -> Recommendation:
    """Measure every installed backend with the model of `settings`.

    Args:
        settings: with one model, whose files are here.
        machine: where this runs.
        backends: those to measure beside eager PyTorch; none: all that are installed.
        most_seconds: about which it takes: what has not loaded after the larger part of it is left out.
        on_step: called with what is about to happen.
        exact: whether only float32 is measured.

    Raises:
        ProviderError: the model is not here, or cannot be read, or a backend of `backends` is not installed.
    """
    for name in backends:
        find_entry_point(name)
    wanted = {_REFERENCE[0], *backends} if backends else {each.name for each in machine.backends}
    started = time.monotonic()
    if settings.model.backend == AUTO:
        settings = evolve(settings, model=evolve(settings.model, backend=_REFERENCE[0]))
    texts = _texts(settings)
    failed: list[Trial] = []
    running: list[tuple[Trial, ContenderProcess]] = []
    with ExitStack() as stack:
        for trial in _contenders(settings.model, machine, wanted, exact=exact):
            left = _LOADING_SHARE * most_seconds - (time.monotonic() - started)
            problem = trial.problem or _lacks_memory(running) or ("there was no time left" if left < 1 else None)
            if problem is None:
                on_step(f"loading {trial.backend} {trial.dtype}")
                # One that compiles for minutes leaves time for those behind it.
                patience = left if not running else left / 2
                try:
                    contender = _started(stack, trial, settings, texts, patience)
                    running.append((trial, contender))
                    continue
                except ContenderFailed as exc:
                    problem = exc.message
            failed.append(msgspec.structs.replace(trial, problem=problem))
        measured = [*_measured(running, texts, most_seconds - (time.monotonic() - started), on_step)]
    trials = sorted([*measured, *failed], key=lambda each: -(each.ratio or 0))
    best, faster = choose(trials)
    return Recommendation(settings.model.served_name, round(time.monotonic() - started, 1), trials, best, faster)


def choose(trials: Sequence[Trial]) -> tuple[Trial | None, Trial | None]:
    """The one to use, and one that is clearly faster but gives other outputs.

    Args:
        trials: the fastest first.
    """
    reference = next((each for each in trials if (each.backend, each.dtype) == _REFERENCE and each.ratio), None)
    exact = next((each for each in trials if each.is_exact), None)
    if exact is not None and reference is not None and (exact.ratio or 0) < _NOTABLY:
        exact = reference
    others = [each for each in trials if each.ratio and not each.is_exact and (each.agreement or 0) > _RELATED]
    least = _CLEARLY * ((exact.ratio if exact else None) or 0)
    return exact, next((each for each in others if (each.ratio or 0) > least), None)


def _contenders(model: ModelSettings, machine: Machine, wanted: Collection[str], *, exact: bool) -> Iterator[Trial]:
    """The reference first, then every backend in every dtype that may pay; with the problem where it cannot run."""
    dtypes = [
        "float32",
        *(["auto"] if machine.has_accelerator else []),
        *(["bfloat16"] if machine.has_bfloat16 else []),
    ]
    if not machine.has_accelerator:
        dtypes.append("int8")
    if exact:
        dtypes = dtypes[:1]
    problems = {each.name: each.problem for each in machine.backends if each.name in wanted}
    names = sorted(problems, key=lambda name: (name != _REFERENCE[0], name))
    for name in names:
        for dtype in dtypes:
            problem = problems[name]
            yield Trial(name, dtype, problem=_refusal(name, dtype, model) if problem is None else problem)


def _refusal(name: str, dtype: str, model: ModelSettings) -> str | None:
    """Why a backend does not run in `dtype` on the configured device, as far as it knows without the model."""
    backend = find_backend(name)
    try:
        own = own_options(name, backend, model.options if name == model.backend else {})
        if isinstance(backend, ChecksOptions):
            backend.check_options(BackendOptions(device=model.device, dtype=dtype, own=own))
    except ProviderError as exc:
        return exc.message
    return None


def _texts(settings: Settings) -> Texts:
    """What is sent: the shipped sentences, as documents where the model gives scores."""
    found = find_model(settings.model, settings.hub, show_progress=False, notify_download=lambda _phase, _detail: None)
    spec, _ = read_files(found.source, settings.model)
    task: LoadTask = "embed" if spec.find(ScoreTask) is None else "rerank"
    return Texts(tuple(SHIPPED.read_text(encoding="utf-8").splitlines()), task=task)


def _started(stack: ExitStack, trial: Trial, settings: Settings, texts: Texts, most_seconds: float) -> ContenderProcess:
    model = settings.model
    options = model.options if trial.backend == model.backend else {}
    model = evolve(model, backend=trial.backend, dtype=trial.dtype, options=options)
    setup = EngineSetup(texts, evolve(settings, model=model), "end")
    return stack.enter_context(ContenderProcess.start(setup, most_seconds=most_seconds))


def _lacks_memory(running: Sequence[tuple[Trial, ContenderProcess]]) -> str | None:
    """Why another contender would not fit beside those that are loaded."""
    free, needed = free_bytes(), max((each.facts["peak_bytes"] for _, each in running), default=0)
    if free is None or needed < _FREE_SHARE * free:
        return None
    return f"{free / 2**30:.1f} GiB of memory are free, and the others took {needed / 2**30:.1f} GiB each"


def _measured(
    running: Sequence[tuple[Trial, ContenderProcess]], texts: Texts, left: float, on_step: Callable[[str], None]
) -> Iterator[Trial]:
    if not running:
        return
    slices = (_ROUNDS + 1) * len(running)
    seconds = min(_SLICE_SECONDS, max(_SHORTEST_SLICE_SECONDS, left / slices - _BETWEEN_SECONDS))
    schedule = Schedule(seconds, _ROUNDS, _ANSWER_SECONDS, seed=secrets.randbits(32))
    contenders = [contender for _, contender in running]
    for (trial, _), contender in zip(running, contenders, strict=True):
        contender.name = f"{trial.backend} {trial.dtype}"
    on_step("comparing outputs")
    sample = texts.sentences[:_COMPARED]
    outputs = [np.asarray(each.compute(sample)) for each in contenders]
    outcomes = run_rounds(contenders, [_LOAD], schedule, on_step)
    rates = [[_rate(each) for each in outcomes[_LOAD, contender.name]] for contender in contenders]
    for (trial, contender), rows, own in zip(running, outputs, rates, strict=True):
        speed, ratio = Spread.of(own), Spread.of_ratios(own, rates[0])
        agreement = _agreement(rows, outputs[0], is_scores=texts.task == "rerank")
        yield msgspec.structs.replace(
            trial,
            dtype=contender.facts["dtype"],
            device=contender.facts["device"],
            texts_per_second=round(speed.median, 1) if speed else None,
            ratio=round(ratio.median, 2) if ratio else None,
            agreement=round(agreement, 6),
            is_exact=agreement >= 1 - (_FLOAT32_DRIFT if contender.facts["device"] == "cpu" else _HALF_DRIFT),
        )


def _rate(outcome: Outcome) -> float:
    return outcome.texts / outcome.seconds if outcome.seconds else 0.0


def _agreement(rows: NDArray[np.float64], reference: NDArray[np.float64], *, is_scores: bool) -> float:
    """See `Trial.agreement`; 0 where the widths differ."""
    if rows.shape != reference.shape:
        return 0.0
    if is_scores:
        return float(1 - np.abs(rows - reference).max())
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(reference, axis=1)
    return float(((rows * reference).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
