"""A device whose work is queued: buffers, copies and graphs, on a fake that notices what is used too early."""

import threading
from typing import Any

import fake_cuda
import numpy as np
import pytest
import torch
from fake_cuda import FakeRuntime
from waiting import finish

from provider.backends.torch.device import PlainDevice
from provider.backends.torch.graphs import Rectangle, rectangles
from provider.backends.torch.queued import QueuedDevice

ARRAYS = [
    np.arange(6, dtype=np.int64).reshape(2, 3),
    np.array([7], np.int32),
    np.zeros(0, np.int64),
    np.array([[True, False]]),
    np.linspace(0, 1, 5, dtype=np.float32),
]


def same(tensors: list[torch.Tensor], arrays: list[Any]) -> bool:
    return all(
        each.numpy().dtype == array.dtype and np.array_equal(each.numpy(), array)
        for each, array in zip(tensors, arrays, strict=True)
    )


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def device(runtime: FakeRuntime) -> QueuedDevice:
    return QueuedDevice("cuda:0", runtime)


def test_arrays_of_all_kinds_go_up_in_one_copy(device: QueuedDevice, runtime: FakeRuntime) -> None:
    with device.work():
        assert same(device.put(ARRAYS), ARRAYS)
    assert runtime.uploads == 1


def test_an_array_may_change_once_it_was_put(device: QueuedDevice) -> None:
    array = np.arange(4)
    with device.work():
        (tensor,) = device.put([array])
        array[:] = 9
        assert device.get(tensor).tolist() == [0, 1, 2, 3]


def test_memory_is_used_again_only_after_its_copy(device: QueuedDevice, runtime: FakeRuntime) -> None:
    with device.work():
        # Nothing is complete before somebody waits; then the fake looks whether what was copied is still there.
        tensors = [device.put([np.full(5, i)])[0] for i in range(40)]
        assert 1 < runtime.buffers <= 16
        assert [int(device.get(each)[0]) for each in tensors] == list(range(40))
        before = runtime.buffers
        for i in range(40):
            assert int(device.get(device.put([np.full(5, i)])[0])[0]) == i
    assert runtime.buffers == before


def test_results_belong_to_the_caller(device: QueuedDevice) -> None:
    with device.work():
        first = device.get(torch.arange(4))
        second = device.get(torch.full((2, 2), 8.0))
    assert first.tolist() == [0, 1, 2, 3]
    assert second.tolist() == [[8.0, 8.0], [8.0, 8.0]]
    assert second.flags.writeable


def test_a_graph_runs_again_on_new_arrays_from_several_threads(device: QueuedDevice, runtime: FakeRuntime) -> None:
    def function(tensors: Any) -> torch.Tensor:
        rows, factor = tensors
        product: torch.Tensor = rows * factor
        return product

    def arrays(i: int) -> list[Any]:
        return [np.full((4, 2), i), np.full((1, 1), 3)]

    with device.work():
        captured = device.capture(function, arrays(0))
    found: dict[int, list[Any]] = {}

    def lane(number: int) -> None:
        with device.work():
            for i in range(20):
                found[100 * number + i] = captured.run(arrays(100 * number + i), 3).tolist()

    finish([threading.Thread(target=lane, args=(number,)) for number in range(3)])
    assert found == {i: [[3 * i] * 2] * 3 for i in found}
    assert (len(found), runtime.captures, runtime.replays) == (60, 1, 60)


def test_work_outside_of_the_stream_is_noticed(device: QueuedDevice) -> None:
    with pytest.raises(AssertionError, match="another stream"):
        device.put(ARRAYS)


def test_what_waits_cannot_be_captured(device: QueuedDevice) -> None:
    with device.work(), pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        device.capture(lambda tensors: tensors[0] * tensors[0].sum().item(), [np.arange(3)])


def test_on_the_cpu_nothing_is_copied_but_what_is_read_only() -> None:
    device, array = PlainDevice(torch.device("cpu")), np.arange(4)
    assert (device.is_cpu, device.has_varlen, device.capture, device.lanes) == (True, False, None, None)
    frozen = array.copy()
    frozen.flags.writeable = False
    tensors = device.put([array, frozen])
    assert same(tensors, [array, frozen])
    assert [np.shares_memory(each.numpy(), of) for each, of in zip(tensors, (array, frozen), strict=True)] == [
        True,
        False,
    ]
    assert np.shares_memory(device.get(tensors[0]), array)


@pytest.mark.parametrize("longest", [8, 16, 100, 512, 8192])
def test_rectangles_hold_every_short_batch_and_no_more_cells_than_are_worth_it(longest: int) -> None:
    found = rectangles(longest)
    assert [each.cells for each in found] == sorted(each.cells for each in found)
    assert max(each.cells for each in found) <= 4096
    assert max(each.width for each in found) == min(longest, 4096)
    assert Rectangle(1, min(longest, 16)) == found[0]
    assert len(found) <= 60


def test_the_fake_is_as_strict_as_the_kernel() -> None:
    states = torch.zeros(4, 2, 8, dtype=torch.float16)
    with pytest.raises(AssertionError):
        fake_cuda.varlen_attn(states, states, states, *[torch.tensor([0, 4])] * 2, 4, 4)
