"""A static model: the mean of token vectors, by torch's embedding bag. transformers is not needed."""

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from provider.backends.kit.sparse import TokenWeights
from provider.backends.torch.device import Device
from provider.domain import ModelSpec, SparseTask, TokenBatch
from provider.errors import BackendUnavailable, InvalidModel


class StaticTable:
    """The table of a static model. Safe from several threads."""

    def __init__(self, table: torch.Tensor, device: Device) -> None:
        """Take the table, (ids, dimension) floating, on `device`."""
        self._table, self._device = table, device

    @classmethod
    def load(cls, spec: ModelSpec, dtype: torch.dtype, device: Device) -> "StaticTable":
        """Read the table in `spec.folder`.

        Raises:
            InvalidModel: it is damaged, or a token is mapped to a row that is not there.
        """
        path = spec.folder / "model.safetensors"
        try:
            tensors = load_file(path)
            table = tensors["embedding.weight"] if "embedding.weight" in tensors else _folded(tensors)
        except (OSError, SafetensorError, KeyError, IndexError, RuntimeError) as exc:
            msg = f"the table in {path} cannot be loaded: {exc}; download the model again"
            raise InvalidModel(msg) from exc
        # A copy, out of the mapped file.
        return cls(table.to(device.place, dtype, copy=True).contiguous(), device)

    def pooled(self, batch: TokenBatch) -> torch.Tensor:
        """The mean of each row's token vectors, (rows, dimension) float32."""
        ids, starts = self._device.put([batch.ids.astype(np.int64), batch.offsets[:-1]])
        mean: torch.Tensor = torch.nn.functional.embedding_bag(ids, self._table, starts, mode="mean")
        return mean.float()


def _folded(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The table of model2vec: rows that several ids share, and a factor for each id."""
    table = tensors["embeddings"]
    if "mapping" in tensors:
        table = table[tensors["mapping"].long()]
    if "weights" in tensors:
        table = table.float() * tensors["weights"].float()[:, None]
    return table


def load_static(spec: ModelSpec, dtype: torch.dtype, device: Device, *, int8: bool) -> StaticTable | TokenWeights:
    """What runs a model that is a table: of vectors, or of weights of a query's tokens.

    Raises:
        BackendUnavailable: int8 is asked for.
    """
    if int8:
        msg = f"the model {spec.name!r} is a table without linear layers, which int8 is for; set model.dtype to auto"
        raise BackendUnavailable(msg)
    task = spec.find(SparseTask)
    if task is not None and task.query_weights is not None:
        return TokenWeights.load(task.query_weights)
    return StaticTable.load(spec, dtype, device)
