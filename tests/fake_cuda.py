"""A stand-in for CUDA devices: what torch.cuda and DALI are told is checked, and computed on the CPU.

Every replaced function binds its arguments to the real signature. Work is done at once; but a stream says so only when
it is told to `finish`, and until then what its work reads must keep the values that it had: a pinned buffer that is
written to again too early is an AssertionError.
"""

import functools
import inspect
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

Device = torch.device | str | int | None
N_GPUS = 4
CAPABILITY = (9, 0)
FREE_BYTES, PEAK_BYTES = 2**36, 2**20
_FACTORIES = ("empty", "tensor", "arange", "ones", "zeros", "full")  # of tensors, with an argument `device`


def checked(real: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """`fake`, called only as `real` can be."""
    signature = inspect.signature(real)

    @functools.wraps(fake)
    def call(*args: Any, **kwargs: Any) -> Any:
        signature.bind(*args, **kwargs)
        return fake(*args, **kwargs)

    return call


def stands_in_for(real: type) -> Callable[[type], type]:
    """A class whose public methods are called only as those of `real`; those marked `own` are the stand-in's alone."""

    def check(fake: type) -> type:
        for name, method in list(vars(fake).items()):
            if inspect.isfunction(method) and not name.startswith("_") and not hasattr(method, "is_own"):
                setattr(fake, name, checked(getattr(real, name), method))
        make, signature = fake.__init__, inspect.signature(real)  # type: ignore[misc]

        def checked_init(self: object, *args: Any, **kwargs: Any) -> None:
            signature.bind(*args, **kwargs)
            make(self, *args, **kwargs)

        fake.__init__ = checked_init  # type: ignore[misc]
        return fake

    return check


def own(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that the real class does not have."""
    method.is_own = True  # type: ignore[attr-defined]
    return method


@stands_in_for(torch.cuda.Stream)
class Stream:
    """Counts what it was given and what of that is finished."""

    _numbers = itertools.count(1)
    gpu: "FakeCuda"  # set where it is installed

    def __init__(self, device: Device = None, priority: int = 0, **kwargs: Any) -> None:
        self.device = torch.device("cuda", self.gpu.index_of(device))
        self.cuda_stream = next(self._numbers)
        self.n_given = self.n_finished = 0
        self._lock = threading.RLock()
        self.reads: list[tuple[int, np.ndarray, np.ndarray]] = []  # until when, what, and its values

    @own
    def give(self, *reads: tuple[np.ndarray, np.ndarray]) -> int:
        """Work that reads arrays, each with the values that it had; returns its number."""
        with self._lock:
            self.n_given += 1
            self.reads += [(self.n_given, *read) for read in reads]
            if self.gpu.is_prompt:
                self.finish()
            return self.n_given

    @own
    def finish(self, n: int | None = None) -> None:
        """All work up to number n, of what was given so far."""
        with self._lock:
            n = self.n_given if n is None else max(self.n_finished, n)
            for number, array, values in self.reads:
                assert number > n or np.array_equal(array, values), "memory was written to while a GPU read it"
            self.reads = [read for read in self.reads if read[0] > n]
            self.n_finished = n  # last: from now on, threads may write to what was read

    def synchronize(self) -> None:
        self.finish()

    def query(self) -> bool:
        return self.n_finished == self.n_given


@stands_in_for(torch.cuda.Event)
class Event:
    """Done when the stream has finished what it was given before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.recorded: tuple[Stream, int] | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or Stream.gpu.current_stream()
        self.recorded = (stream, stream.give())

    def query(self) -> bool:
        assert self.recorded is not None
        stream, number = self.recorded
        return stream.n_finished >= number

    def synchronize(self) -> None:
        assert self.recorded is not None
        stream, number = self.recorded
        stream.finish(number)


class FakeCuda:
    """GPUs, with what they were given. is_prompt: they finish everything at once."""

    def __init__(self) -> None:
        self.is_prompt = False
        self.used: set[int] = set()  # devices on which tensors were asked for
        self.pinned: list[torch.Tensor] = []
        self.n_pageable_copies = 0
        self.pipelines: list[Any] = []
        self._current, self._chosen = 0, threading.local()
        Stream.gpu = self
        self.default_streams = [Stream(index) for index in range(N_GPUS)]

    def index_of(self, device: Device) -> int:
        """Number of a GPU; of the current one where none is named."""
        index = device if isinstance(device, int) else None if device is None else torch.device(device).index
        index = self._current if index is None else index
        assert 0 <= index < N_GPUS
        return index

    def current_stream(self, device: Device = None) -> Stream:
        index = self.index_of(device)
        chosen = getattr(self._chosen, "stream", None)
        return chosen if chosen is not None and chosen.device.index == index else self.default_streams[index]

    def finish(self) -> None:
        """All that the default streams were given."""
        for stream in self.default_streams:
            stream.finish()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put this in the place of torch's."""
        fakes: dict[str, Callable[..., Any]] = {
            "is_available": lambda: True,
            "device_count": lambda: N_GPUS,
            "current_device": lambda: self._current,
            "set_device": self._set_device,
            "current_stream": self.current_stream,
            "stream": lambda stream: _Chosen(self._chosen, stream),
            "synchronize": lambda device=None: self.default_streams[self.index_of(device)].finish(),
            "get_device_capability": lambda device=None: CAPABILITY,
            "get_device_name": lambda device=None: f"GPU {self.index_of(device)} that is none",
            "get_arch_list": lambda: ["sm_75", "sm_90"],
            "mem_get_info": self._memory(FREE_BYTES, FREE_BYTES),
            "memory_reserved": self._memory(0),
            "memory_allocated": self._memory(0),
            "max_memory_allocated": self._memory(PEAK_BYTES),
            "reset_peak_memory_stats": self._memory(None),
            "is_current_stream_capturing": lambda: False,
            "is_bf16_supported": lambda including_emulation=True: True,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, checked(getattr(torch.cuda, name), fake))
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)  # torch's optimisers ask for its streams
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        for name in _FACTORIES:
            monkeypatch.setattr(torch, name, self._factory(getattr(torch, name)))
        monkeypatch.setattr(torch.Tensor, "to", self._moving(torch.Tensor.to))
        monkeypatch.setattr(
            torch.Tensor, "cuda", lambda tensor, device=None: tensor.to(f"cuda:{self.index_of(device)}")
        )

    def _memory(self, *answer: int | None) -> Callable[..., Any]:
        def answered(device: Device = None) -> Any:
            self.index_of(device)
            return answer if len(answer) > 1 else answer[0]

        return answered

    def _set_device(self, device: Device) -> None:
        self._current = self.index_of(device)

    def _on_cpu(self, device: Any) -> Any:
        """The CPU in the place of a GPU, which is noted."""
        if isinstance(device, torch.device | str) and torch.device(device).type == "cuda":
            self.used.add(self.index_of(device))
            return torch.device("cpu")
        return device

    def _factory(self, real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def make(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
            if "device" in kwargs:
                kwargs["device"] = self._on_cpu(kwargs["device"])
            made = real(*args, **kwargs)
            if pin_memory:
                self.pinned.append(made)
            return made

        return make

    def _moving(self, real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            given = [*args, kwargs.get("device")]
            targets = [one for one in given if self._on_cpu(one) is not one]
            if not targets:
                return real(tensor, *args, **kwargs)
            kwargs = {name: self._on_cpu(value) for name, value in kwargs.items()}
            moved = real(tensor, *map(self._on_cpu, args), **{**kwargs, "copy": True})
            if kwargs.get("non_blocking", False):
                self.n_pageable_copies += not self._is_pinned(tensor)
                array = tensor.numpy()
                self.current_stream(targets[0]).give((array, array.copy()))
            return moved

        return to

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        begin = tensor.data_ptr()
        return any(buffer.data_ptr() <= begin < buffer.data_ptr() + max(buffer.nbytes, 1) for buffer in self.pinned)


class _Chosen:
    """Context in which a stream is the current one of this thread."""

    def __init__(self, chosen: threading.local, stream: Stream) -> None:
        self._chosen, self._stream = chosen, stream

    def __enter__(self) -> None:
        self._before = getattr(self._chosen, "stream", None)
        self._chosen.stream = self._stream

    def __exit__(self, *error: object) -> None:
        self._chosen.stream = self._before


def install_in_dali(gpu: FakeCuda, dali: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let DALI's pipelines for a GPU run on the CPU; what they read counts as read until their output is finished."""

    class Pipeline(dali.Pipeline):  # type: ignore[name-defined,misc]
        def __init__(self, *args: Any, device_id: int | None = None, **kwargs: Any) -> None:
            super().__init__(*args, device_id=None, **kwargs)
            self.gpu_number = device_id
            self.fed: deque[list[tuple[np.ndarray, np.ndarray]]] = deque()
            gpu.pipelines.append(self)

        def run(self, cuda_stream: Stream | None = None, /, **pipeline_inputs: Any) -> Any:
            outputs = super().run(None, **pipeline_inputs)
            if self.gpu_number is not None:
                assert isinstance(cuda_stream, Stream), "a GPU's pipeline was run without a stream"
                assert cuda_stream.device.index == self.gpu_number
                cuda_stream.give(*self.fed.popleft())
            return outputs

    def watched(source: Iterator[Sequence[Any]], fed: deque[Any]) -> Iterator[Sequence[Any]]:
        for arrays in source:
            flat = [one for given in arrays for one in (given if isinstance(given, list) else [given])]
            fed.append([(one, one.copy()) for one in flat])
            yield arrays

    real = dali.fn.external_source

    def external_source(source: Any = None, *args: Any, **kwargs: Any) -> Any:
        is_read_ahead = isinstance(source, Iterator)
        return real(watched(source, dali.Pipeline.current().fed) if is_read_ahead else source, *args, **kwargs)

    assert _kinds(Pipeline.run) == _kinds(dali.Pipeline.run)
    monkeypatch.setattr(dali, "Pipeline", Pipeline)
    monkeypatch.setattr(dali.fn, "external_source", external_source)
    monkeypatch.setattr(dali.data_node.DataNode, "gpu", checked(dali.data_node.DataNode.gpu, lambda node: node))


def _kinds(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(name, parameter.kind) for name, parameter in inspect.signature(function).parameters.items()]
