"""A compiled model in memory: a shared object of Inductor's, called through its C interface.

The interface is the one that PyTorch's ahead-of-time compiler has for programs without Python
(`torch/csrc/inductor/aoti_runtime/interface.h` for the model, `aoti_torch/c/shim.h` for tensors). `ctypes` lets go of
the interpreter lock for the whole forward pass, so that other lanes and the event loop run beside it; torch's own
Python binding holds the lock.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401 - brings the libraries that the shared object needs
from numpy.typing import NDArray

from provider.domain import Vectors

# Forward passes that may run at the same time; another one would wait. They share the weights, and cost little else.
_INSTANCES = 32

_POINTER, _SIZE, _LONG, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_int32


class CompiledModel:
    """One shared object with its weights. Several threads may call `run` at the same time."""

    def __init__(self, path: Path, *, inputs: int, width: int) -> None:
        """Map the file and bring its weights into memory.

        Args:
            path: a shared object that was compiled for a machine like this one.
            inputs: how many arrays it takes.
            width: numbers that it answers for a row.

        Raises:
            OSError: it cannot be loaded.
        """
        self._inputs, self._width = inputs, width
        self._model = model = ctypes.CDLL(str(path))
        model.AOTInductorModelContainerCreateWithDevice.argtypes = [_POINTER, _SIZE, ctypes.c_char_p, ctypes.c_char_p]
        model.AOTInductorModelContainerGetNumInputs.argtypes = [_POINTER, _POINTER]
        model.AOTInductorModelContainerRun.argtypes = [_POINTER, _POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _POINTER]
        model.AOTInductorModelContainerDelete.argtypes = [_POINTER]
        # torch's own functions, found through the model's dependencies. They take less time than giving the interpreter
        # lock away and getting it back.
        self._torch = tensors = ctypes.PyDLL(str(path))
        tensors.aoti_torch_create_tensor_from_blob.argtypes = [
            *(_POINTER, _LONG, _POINTER, _POINTER, _LONG),
            *(_INT, _INT, _INT, _POINTER),
        ]
        tensors.aoti_torch_get_data_ptr.argtypes = tensors.aoti_torch_get_numel.argtypes = [_POINTER, _POINTER]
        tensors.aoti_torch_delete_tensor_object.argtypes = [_POINTER]
        self._cpu = tensors.aoti_torch_device_type_cpu()
        self._dtypes = {
            np.dtype(np.int32): tensors.aoti_torch_dtype_int32(),
            np.dtype(np.int64): tensors.aoti_torch_dtype_int64(),
        }
        self._container: ctypes.c_void_p | None = _POINTER()
        code = model.AOTInductorModelContainerCreateWithDevice(ctypes.byref(self._container), _INSTANCES, b"cpu", None)
        if code:
            self._container = None
            msg = f"{path} cannot be loaded: {self._last_error()}"
            raise OSError(msg)
        count = _SIZE()
        model.AOTInductorModelContainerGetNumInputs(self._container, ctypes.byref(count))
        if count.value != inputs:
            self.close()
            msg = f"{path} takes {count.value} inputs, expected {inputs}"
            raise OSError(msg)

    def run(self, arrays: Sequence[NDArray[Any]], rows: int) -> Vectors:
        """One forward pass, without the interpreter lock.

        Args:
            arrays: the graph's inputs, int32 or int64; read only.
            rows: of the batch.

        Returns:
            (rows, width) float32, owned by the caller.

        Raises:
            RuntimeError: the forward pass failed, or the model is closed.
        """
        if self._container is None:
            msg = "the model is closed"
            raise RuntimeError(msg)
        kept = [np.ascontiguousarray(array) for array in arrays]
        handles = self._handles(kept)
        answer = _POINTER()
        # The handles of the inputs are taken over, whether it succeeds or not.
        code = self._model.AOTInductorModelContainerRun(
            self._container, handles, len(handles), ctypes.byref(answer), 1, None, None
        )
        if code:
            msg = f"the compiled model failed: {self._last_error()}"
            raise RuntimeError(msg)
        try:
            return self._copy(answer, rows)
        finally:
            self._torch.aoti_torch_delete_tensor_object(answer)

    def close(self) -> None:
        """Free the weights. May be called twice, and not while `run` is under way."""
        if self._container is not None:
            self._model.AOTInductorModelContainerDelete(self._container)
            self._container = None

    def _handles(self, arrays: Sequence[NDArray[Any]]) -> "ctypes.Array[ctypes.c_void_p]":
        if len(arrays) != self._inputs:
            msg = f"the compiled model takes {self._inputs} inputs, got {len(arrays)}"
            raise RuntimeError(msg)
        handles = (_POINTER * len(arrays))()
        for i, array in enumerate(arrays):
            axes = _LONG * array.ndim
            strides = axes(*(stride // array.itemsize for stride in array.strides))
            self._torch.aoti_torch_create_tensor_from_blob(
                *(array.ctypes.data, array.ndim, axes(*array.shape), strides, 0),
                *(self._dtypes[array.dtype], self._cpu, 0, ctypes.byref(handles, i * ctypes.sizeof(_POINTER))),
            )
        return handles

    def _copy(self, tensor: ctypes.c_void_p, rows: int) -> Vectors:
        numbers, data = _LONG(), _POINTER()
        self._torch.aoti_torch_get_numel(tensor, ctypes.byref(numbers))
        self._torch.aoti_torch_get_data_ptr(tensor, ctypes.byref(data))
        vectors = np.empty((rows, self._width), np.float32)
        if numbers.value != vectors.size or data.value is None:
            msg = f"the compiled model answered {numbers.value} numbers, expected {vectors.size}"
            raise RuntimeError(msg)
        ctypes.memmove(vectors.ctypes.data, data.value, vectors.nbytes)
        return vectors

    def _last_error(self) -> str:
        text = ctypes.c_char_p()
        self._model.AOTInductorGetLastError(ctypes.byref(text))
        # Behind the first line comes a trace of the stack.
        lines = (text.value or b"").decode(errors="replace").splitlines()
        return lines[0] if lines else "no reason was given"
