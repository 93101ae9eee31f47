"""Work on tensors of one shape as a CUDA graph: recorded once, launched as a whole from then on.

A training step of small networks is hundreds of kernels, and a GPU is done with many of them before the CPU
has launched the next. A recording launches all at once. It takes the place of the work only where it was
seen to do the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Work = Callable[..., Sequence[Tensor]]
# Before a recording all that is set up by a first call must have been.
_BEFORE = 3


class Recorder(Protocol):
    """What does work or records it: :class:`CudaRecorder`, or a stand-in for it in tests."""

    def do(self, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Does the work where it will be recorded."""

    def record(self, work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], object], Sequence[Tensor]]:
        """Records the work; returns what does it again, and the tensors that doing it again fills."""


class CudaRecorder:
    """A stream of a GPU on which work is done and recorded as CUDA graphs.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def do(self, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Does the work on the stream: what libraries set up for a stream must be there when recording."""
        present = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            found = work(*inputs)
        present.wait_stream(self._stream)
        return found

    def record(self, work: Work, inputs: Sequence[Tensor]) -> tuple[Callable[[], object], Sequence[Tensor]]:
        """Records the work without doing it; memory that it takes stays taken until the graph is dropped."""
        graph, present = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._stream.device)
        # The outer context: where recording fails, the inner one does not give the present stream back.
        # The mode: another thread, which reads ahead, may pin memory meanwhile.
        with (
            torch.cuda.stream(present),
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            outputs = work(*inputs)
        return graph.replay, outputs


class Replayed:
    """Work that is replayed from a recording after it came a few times in a row with inputs of one shape.

    On a CPU, and where a recording fails or gives other numbers, the work is merely done.

    Args:
        work: takes tensors on the device and returns new ones; nothing in it may wait for the GPU, and
            every other tensor that it reads or writes must stay where it is, see :meth:`forget`.
        device: where the tensors are.
        state: returns the tensors that the work changes.
        before: so many times in a row it is done before it is recorded.
        recorder: for a device that is no GPU.

    Attributes:
        enabled: whether there are recordings at all, to see what they are good for.
        how: in words, for the record.
    """

    enabled: ClassVar[bool] = True

    def __init__(
        self,
        work: Work,
        device: torch.device,
        state: Callable[[], Sequence[Tensor]] = tuple,
        before: int = _BEFORE,
        recorder: Recorder | None = None,
    ) -> None:
        self._work, self._state, self._before = work, state, before
        records = device.type == "cuda" and self.enabled
        self._recorder = recorder or (CudaRecorder(device) if records else None)
        self.how = "one kernel after another"
        self.forget()

    def forget(self) -> None:
        """Drops the recording: a tensor that the work reads or writes was replaced by another."""
        self._replay: Callable[[], object] | None = None
        self._inputs: Sequence[Tensor] = ()
        self._outputs: Sequence[Tensor] = ()
        self._shape: object = None
        self._latest: object = None
        self._times = 0

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Does the work, one way or another; what it returns is not touched by later calls."""
        if self._recorder is None:
            return tuple(self._work(*inputs))
        shape = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs]
        if self._replay is not None and shape == self._shape:
            # Another shape that comes between, as the last batch of an epoch does, is not worth a recording.
            self._times = 0
            return self._again(self._replay, inputs)
        self._times = self._times + 1 if shape == self._latest else 1
        self._latest = shape
        if self._times <= self._before:
            return tuple(self._recorder.do(self._work, inputs))
        return self._record(self._recorder, shape, inputs)

    def _again(self, replay: Callable[[], object], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        replay()
        return tuple(tensor.clone() for tensor in self._outputs)

    def _record(self, recorder: Recorder, shape: object, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Does the work, records it, does it again by the recording from where it began, and compares."""
        self.forget()
        state = self._state()
        # On the host: two more copies may not fit on the device.
        began = [tensor.detach().cpu().clone() for tensor in state]
        found = tuple(recorder.do(self._work, inputs))
        ended = [tensor.detach().cpu().clone() for tensor in state]
        _put(began, state)
        self._inputs, self._shape = [tensor.clone() for tensor in inputs], shape
        try:
            self._replay, self._outputs = recorder.record(self._work, self._inputs)
            replayed = self._again(self._replay, inputs)
            now = [tensor.detach().cpu() for tensor in state]
            same = all(map(torch.equal, (*found, *ended), (*replayed, *now)))
            problem = "" if same else "a recording gives other numbers"
        except RuntimeError as error:
            problem = f"recording failed, {str(error).partition(chr(10))[0]}"
        if problem:
            _put(ended, state)
            self.forget()
            self._recorder = None
            self.how += f": {problem}"
            return found
        self.how = "as a CUDA graph"
        return found


@torch.no_grad()
def _put(values: Sequence[Tensor], state: Sequence[Tensor]) -> None:
    for value, tensor in zip(values, state, strict=True):
        tensor.copy_(value)
