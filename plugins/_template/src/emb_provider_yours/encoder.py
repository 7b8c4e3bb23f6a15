"""The encoder: token ids to hidden states. This one is transformers, as a stand-in: put yours in its place."""

from typing import Self

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from provider.backends import InvalidModel, ModelSpec


class Encoder:
    """One model, loaded."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Use `load`."""
        self._model = model

    @classmethod
    def load(cls, spec: ModelSpec, *, threads: int) -> Self:
        """Load the weights in `spec.folder`, for `threads` CPU threads a forward pass.

        Raises:
            InvalidModel: the weights are missing or damaged.
        """
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        try:
            model = transformers.AutoModel.from_pretrained(
                spec.folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError) as exc:
            msg = f"the weights in {spec.folder} cannot be loaded; copy them there, or download the model again"
            raise InvalidModel(msg) from exc
        return cls(model.eval())

    def hidden_states(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """The last layer's states, (rows, width, hidden_size); what stands on padding does not matter.

        Args:
            ids: (rows, width), filled up with the padding id.
            mask: (rows, width), 1 where a token stands, 0 on padding.
        """
        with torch.inference_mode():
            answer = self._model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        hidden: NDArray[np.float32] = answer.last_hidden_state.numpy()
        return hidden
