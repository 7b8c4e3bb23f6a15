"""The ranges by which a model's vectors become 8-bit integers: measured once, at first use, or configured."""

import asyncio
import contextvars
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from provider.domain import DENSE, Embedded, EmbedRequest
from provider.engine.engine import Engine
from provider.errors import InvalidOption, SettingsError
from provider.settings import ModelSettings
from provider.tasks.quantisation import Ranges
from provider.verification.corpus import Corpus


@frozen
class _Recipe:
    """All that measured ranges depend on."""

    model: str
    fingerprint: str
    output: str
    dimensions: int | None
    normalize: bool | None


class Calibrator:
    """Ranges of each model, kept as long as the service runs. Used on the event loop's thread only."""

    def __init__(self, engine: Engine) -> None:
        """Read the ranges that are configured; nothing is measured yet.

        Raises:
            SettingsError: a file of ranges cannot be read, or holds something else.
        """
        self._engine = engine
        self._measuring: dict[_Recipe, asyncio.Task[Ranges]] = {}
        self._configured: dict[str, Ranges] = {}
        for runtime in engine.runtimes.values():
            self._configured_for(runtime.settings)

    async def ranges(self, request: EmbedRequest, output: str, embedded: Embedded) -> Ranges:
        """The ranges for `output` of the model of `request`.

        Queries and documents have the same ones, or they could not be compared: prompts play no part.

        Args:
            request: its dimensions and normalisation count.
            output: `dense` or `multi_vector`.
            embedded: its answer, whose vectors are to be quantised.

        Raises:
            InvalidOption: the configured ranges are of another width.
            NotAvailable: the bundled texts cannot be embedded now.
        """
        runtime = self._engine.runtime(request.model)
        name, configured = runtime.name, self._configured_for(runtime.settings)
        if configured is not None and output == DENSE:
            width = embedded.vectors.shape[1]
            if configured.values.shape[1] != width:
                reason = (
                    f"the configured int8 ranges of this model have "
                    f"{configured.values.shape[1]} dimensions, these vectors {width}. Ask for "
                    f"{configured.values.shape[1]} dimensions, or for float vectors."
                )
                raise InvalidOption(option="dimensions", reason=reason)
            return configured
        recipe = _Recipe(name, embedded.fingerprint, output, request.dimensions, request.normalize)
        task = self._measuring.get(recipe)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            # A context of its own: what is measured belongs to no request.
            task = asyncio.create_task(self._measure(recipe), context=contextvars.Context())
            self._measuring[recipe] = task
        # From outside: a caller who leaves does not end what others wait for.
        await asyncio.wait([task])
        return task.result()

    def _configured_for(self, settings: ModelSettings) -> Ranges | None:
        file = settings.int8_ranges_file
        if file is None:
            return None
        if file not in self._configured:
            self._configured[file] = _read(settings)
        return self._configured[file]

    async def _measure(self, recipe: _Recipe) -> Ranges:
        texts = tuple(each.text for each in Corpus.bundled().texts if each.kind != "odd")
        answer = await self._engine.embed(
            EmbedRequest(
                recipe.model,
                texts,
                truncate="end",
                dimensions=recipe.dimensions,
                normalize=recipe.normalize,
                outputs=(recipe.output,),
            )
        )
        found = answer.outputs[recipe.output]
        vectors = found if recipe.output == DENSE else np.concatenate(found)
        source = f"the {len(texts)} sentences and passages that ship with the service"
        return Ranges.measured(np.asarray(vectors), made_from=(recipe, texts), source=source)


def _read(settings: ModelSettings) -> Ranges:
    path = Path(str(settings.int8_ranges_file))
    values: Any = None
    try:
        values = np.load(path, allow_pickle=False)
    except OSError as exc:
        msg = f"model.int8_ranges_file: {path} cannot be read: {exc.strerror or exc}"
        raise SettingsError(msg) from exc
    except (ValueError, EOFError):
        # Of another format, or empty: told below.
        pass
    if not isinstance(values, np.ndarray):
        msg = f"model.int8_ranges_file: {path} is no NumPy array; write one with numpy.save (.npy)"
        raise SettingsError(msg)
    if values.ndim != 2 or values.shape[0] != 2 or values.dtype.kind != "f" or not np.isfinite(values).all():
        msg = (
            f"model.int8_ranges_file: {path} holds {values.dtype} {values.shape}, expected float32 (2, dimensions): "
            "the smallest and the largest value of each dimension"
        )
        raise SettingsError(msg)
    if (values[0] > values[1]).any():
        msg = f"model.int8_ranges_file: {path}: a smallest value is above the largest one of its dimension"
        raise SettingsError(msg)
    return Ranges.given(values.astype(np.float32), source="model.int8_ranges_file")
