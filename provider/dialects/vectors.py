"""What dialects that embed texts do between reading a request and writing its answer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from attrs import evolve
from litestar import Request

from provider.dialects.phrases import FieldNames
from provider.domain import DENSE, MULTI_VECTOR, Embedded, EmbedRequest
from provider.engine.engine import Engine
from provider.http.auth import caller_of
from provider.http.connection import while_connected
from provider.http.exchange import model_for
from provider.tasks.quantisation import CALIBRATED, ElementType, Ranges
from provider.verification.calibration import Calibrator

BYTES_PER_NUMBER = 12
"""Of a float32 in JSON, about."""


async def with_model(
    request: Request[Any, Any, Any], engine: Engine, asked: EmbedRequest, names: FieldNames
) -> EmbedRequest:
    """`asked` with the model that it names, or else with the only one that gives its outputs.

    Args:
        request: whose log line and errors show the model, and the fields as the dialect names them.
        engine: what has the models.
        asked: its model may be empty.
        names: the dialect's names of its fields.

    Raises:
        MissingModel: it names none, and which one is meant is not clear.
        NotAvailable: a model that may be meant is not loaded.
    """
    model = await chosen(request, engine, asked.model, asked.outputs)
    request.scope["state"]["field_names"] = names
    return asked if asked.model else evolve(asked, model=model)


async def chosen(request: Request[Any, Any, Any], engine: Engine, named: str, outputs: Sequence[str] = (DENSE,)) -> str:
    """The model that `request` names, else the only one that gives `outputs`; the log line and errors show it.

    Raises:
        MissingModel, NotAvailable: as `model_for`.
    """
    model = named
    if not named:
        caller, does = caller_of(request.scope), f"give {', '.join(outputs)}"
        model = await model_for(engine, caller, does, lambda spec: {*outputs} <= {*spec.outputs})
    request.scope["state"]["model"] = model
    return model


async def embed(request: Request[Any, Any, Any], engine: Engine, asked: EmbedRequest) -> Embedded:
    """As `Engine.embed`, for the caller of `request` and as long as it is connected."""
    return await engine.embed(asked, caller=caller_of(request.scope), waiting=partial(while_connected, request))


async def ranges(
    request: Request[Any, Any, Any], asked: EmbedRequest, embedded: Embedded, *types: ElementType
) -> dict[str, Ranges] | None:
    """By output, the ranges of `embedded`, the answer to `asked`, if one of `types` needs them.

    Raises:
        InvalidOption: the configured ranges are of another width.
        NotAvailable: they cannot be measured now.
    """
    if CALIBRATED.isdisjoint(types):
        return None
    calibrator: Calibrator = request.app.state.calibrator
    quantised = [each for each in asked.outputs if each in {DENSE, MULTI_VECTOR}]
    return {output: await calibrator.ranges(asked, output, embedded) for output in quantised}
