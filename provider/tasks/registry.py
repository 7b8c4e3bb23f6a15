"""Tasks by the name of their output: the product's own, and those of installed distributions."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from provider.domain import (
    DENSE,
    MULTI_VECTOR,
    SCORES,
    SPARSE,
    DenseTask,
    Features,
    ModelSpec,
    MultiVectorTask,
    Outputs,
    RowOutput,
    ScoreTask,
    TaskSpec,
    TokenBatch,
)
from provider.errors import OutputNotSupported, SettingsError
from provider.tasks.dense import Dense
from provider.tasks.multi_vector import MultiVector
from provider.tasks.protocol import Task
from provider.tasks.scores import Scores
from provider.tasks.sparse import Sparse

GROUP = "provider.tasks"
"""The group of entry points by which a distribution adds a task."""

_SIMILARITIES = {DENSE: "cosine", SPARSE: "dot", MULTI_VECTOR: "maxsim"}
_OWN: Mapping[str, Task] = {DENSE: Dense(), SPARSE: Sparse(), MULTI_VECTOR: MultiVector(), SCORES: Scores()}


def installed_tasks() -> tuple[str, ...]:
    """Names of all tasks, the product's own first."""
    return (*_OWN, *sorted(point.name for point in entry_points(group=GROUP)))


@cache
def find_task(output: str) -> Task:
    """The task whose output is called `output`.

    Raises:
        SettingsError: not exactly one installed distribution has one of that name, or it cannot be loaded.
    """
    if output in _OWN:
        return _OWN[output]
    points = tuple(entry_points(group=GROUP, name=output))
    if len(points) != 1:
        found = f"{len(points)} distributions have a task {output!r}" if points else f"there is no task {output!r}"
        msg = f"{found}; installed are: {', '.join(installed_tasks())}"
        raise SettingsError(msg)
    try:
        made: Task = points[0].load()()
    except Exception as exc:
        msg = f"the task {output!r} ({points[0].value}) cannot be loaded: {exc!r}; mend or remove its distribution"
        raise SettingsError(msg) from exc
    return made


def wanted(spec: ModelSpec, outputs: Sequence[str]) -> Sequence[TaskSpec]:
    """The model's tasks that give `outputs`, in that order.

    Raises:
        OutputNotSupported: it has none for one of them.
    """
    found = [task for output in outputs for task in spec.tasks if task.output == output]
    if len(found) < len(outputs):
        missing = next(output for output in outputs if output not in spec.outputs)
        raise OutputNotSupported(missing, model=spec.name, task=spec.task.word, supported=spec.outputs)
    return found


def check_outputs(specs: Sequence[TaskSpec], outputs: Outputs, batch: TokenBatch) -> None:
    """See that a backend answered all that `batch` wants, in the shapes that the model's tasks say.

    Raises:
        TypeError: it did not.
    """
    if not isinstance(outputs, Mapping):
        msg = f"the backend answered {type(outputs).__name__}, expected a mapping from output to one entry a row"
        raise TypeError(msg)
    for spec in specs:
        if spec.output not in batch.outputs:
            continue
        found = outputs.get(spec.output)
        if found is None:
            msg = f"the backend answered {sorted(outputs)}, expected {sorted(batch.outputs)}"
            raise TypeError(msg)
        find_task(spec.output).check(spec, found, batch)


def all_outputs(features: Features, spec: ModelSpec) -> Features:
    """`features` with all outputs of the model wanted."""
    return evolve(features, outputs=spec.outputs)


def comparable(specs: Sequence[TaskSpec], outputs: Mapping[str, RowOutput]) -> NDArray[np.float32]:
    """All outputs of one row as one vector, in the order of `specs`."""
    return np.concatenate([find_task(spec.output).flat(spec, outputs[spec.output]) for spec in specs])


def described(spec: ModelSpec) -> dict[str, Any]:
    """What a model does, as lists of models show it: JSON values by name, None where a name does not apply."""
    dense, tokens, scores = spec.find(DenseTask), spec.find(MultiVectorTask), spec.find(ScoreTask)
    return {
        "task": spec.task.word,
        "outputs": list(spec.outputs),
        "labels": list(scores.labels) if scores else None,
        "scores": None if scores is None else "logits" if scores.activation == "identity" else "probabilities",
        "dimensions": dense.dimension if dense else tokens.dimension if tokens else None,
        "pooling": "+".join(dense.pooling) if dense else None,
        # What sentence-transformers takes where the files do not say.
        "similarity": None if scores else spec.similarity or _SIMILARITIES.get(spec.task.output),
        "normalize": dense.normalize if dense else tokens.normalize if tokens else None,
    }
