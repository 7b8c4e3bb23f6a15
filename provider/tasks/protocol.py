"""What the engine asks of a task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from provider.domain import EmbedRequest, Features, RowOutput, TaskSpec, TokenBatch


@runtime_checkable
class Task(Protocol):
    """One output of models. Stateless; methods may be called from any thread."""

    def read(self, folder: Path) -> TaskSpec | None:
        """What the model in `folder` does, for models that are configured with `task:` and this task's name.

        Returns:
            The task's part of the model's spec; None where the product reads the folder by itself.

        Raises:
            InvalidModel: the folder is not one for this task.
        """
        ...

    def check(self, spec: Any, outputs: Sequence[RowOutput], batch: TokenBatch) -> None:
        """See that a backend's outputs have the shapes and dtypes that `spec` says.

        Raises:
            TypeError: they do not; the message says what came and what was expected.
        """
        ...

    def flat(self, spec: Any, output: RowOutput) -> NDArray[np.float32]:
        """One row's output as one vector, so that two of them can be compared: shape (numbers,), float32."""
        ...

    def finish(
        self,
        spec: Any,
        outputs: Sequence[RowOutput],
        features: Sequence[Features],
        request: EmbedRequest,
    ) -> Any:
        """From the model's outputs to the answer's, one entry an input, in the same order.

        Raises:
            InvalidOption: the request asks for what this output cannot have.
            NonFiniteVector: an output holds NaN or infinity.
        """
        ...
