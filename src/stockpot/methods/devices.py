"""Panels on a device: methods with much arithmetic, in torch's doubles, where a device is named.

Reading, hashing, masks, exact sums, rounding to the output's type and writing stay where they are.
What is read goes over as it is, in its own type, through pinned memory where the device is CUDA,
and is widened there. Products and sums are separate steps, so that nothing is fused. Order
statistics give the processor's bytes; inner products and singular values are summed in the
library's order, and agree with the processor's to one rounding of the output's type. The geometric
median does so in fp16 and bf16: its iteration stops where doubles show no gain, which leaves the
last digit or two of single precision open on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

import numpy as np

from stockpot.errors import DeviceError, memory_told
from stockpot.methods import elements, spans
from stockpot.methods.contract import Doubles, GramWork, Method, Parameters, Task, Work, by_tensor
from stockpot.methods.feeds import Feed
from stockpot.methods.gram import NEAR, Gram

__all__ = ["CPU", "FORMS", "Device", "begin", "open_device", "runs_on_devices"]

CPU = "cpu"
"""The name of no device: everything runs in numpy and C."""
_TORCH_CPU = "torch-cpu"
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
          "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # fmt: skip
_MAGNITUDE = 0x7FFF_FFFF_FFFF_FFFF


@final
@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """Somewhere torch can compute.

    Attributes:
        name: As people name it.
        told: The same with what it is and torch's version, for records.
        torch: The library.
        place: The device as torch has it.
        host_doubles: Doubles in main memory that a row's element takes there, at most.
    """

    name: str
    told: str
    torch: Any
    place: Any
    host_doubles: int

    def put(self, feed: Feed) -> Any:
        """Copy rows to the device, as doubles.

        Args:
            feed: The rows.

        Returns:
            A tensor of shape ``[n, m]``.
        """
        if feed.mask is not None or feed.elect:
            feed = Feed.of(feed.panel())
        terms = []
        for row in feed.terms:
            staged = self.torch.empty(
                row.data.nbytes, dtype=self.torch.uint8, pin_memory=self.place.type == "cuda"
            )
            staged.numpy()[:] = np.frombuffer(row.data, np.uint8)
            # The library keeps pinned memory from being used again before the copy is done.
            moved = staged.to(self.place, non_blocking=True)
            kind = getattr(self.torch, _TYPES[row.dtype.name])
            terms.append(moved.view(kind).to(self.torch.float64))
        rows = [terms[one] if other < 0 else terms[one] - terms[other] for one, other in feed.pairs]
        return self.torch.stack(rows)

    def take(self, values: Any) -> Doubles:
        """Copy doubles back.

        Args:
            values: A tensor of any shape.

        Returns:
            An array of that shape.
        """
        found: Doubles = values.cpu().numpy()
        return found

    def products(self, feed: Feed) -> tuple[Doubles, Doubles]:
        """Inner products and squared distances of a block's rows; see `Gram`.

        Args:
            feed: The block.

        Returns:
            Both of shape ``[n, n]``.
        """
        x = self.put(feed)
        inner = x @ x.T
        squares = inner.diagonal()
        sizes = squares[:, None] + squares
        squared = sizes - 2 * inner
        near = (squared <= NEAR * sizes).cpu()
        # The products of near rows have lost the digits of their distance.
        for i in range(len(x) - 1):
            others = near[i, i + 1 :].nonzero().flatten() + i + 1
            if len(others):
                others = others.to(self.place)
                gaps = x[others] - x[i]
                squared[i, others] = squared[others, i] = (gaps * gaps).sum(dim=1)
        squared.fill_diagonal_(0.0)
        return self.take(inner), self.take(squared)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What holds while panels are computed.

        Torch on the processor has one thread for each of ours, so that sums have one order; and
        where memory is out, what is raised says what to do.

        Yields:
            Nothing; the former number of threads comes back at the end.

        Raises:
            DeviceMemoryError: The device has no memory left.
        """
        before = self.torch.get_num_threads()
        self.torch.set_num_threads(1)
        try:
            with memory_told(f"{self.name} is to compute panels",
                             "use fewer --threads, or --device cpu"):  # fmt: skip
                yield
        finally:
            self.torch.set_num_threads(before)


def open_device(name: str) -> Device | None:
    """Find a device by its name.

    Args:
        name: ``cpu``: none; ``cuda`` or ``cuda:1``: a GPU; ``torch-cpu``: what a GPU would do, on
            the processor.

    Returns:
        The device; None for ``cpu``.

    Raises:
        DeviceError: There is no such device; it says which there are.

    Example:
        >>> open_device("cpu"), open_device("torch-cpu").name
        (None, 'torch-cpu')
        >>> open_device("cuda:99")
        Traceback (most recent call last):
        ...
        stockpot.errors.DeviceError: ... has no device 'cuda:99'...
    """
    if name == CPU:
        return None
    import torch

    n_gpus = torch.cuda.device_count()
    here = [CPU, _TORCH_CPU, *(f"cuda:{i}" for i in range(n_gpus))]
    if name not in here and not (name == "cuda" and n_gpus):
        raise DeviceError(
            f"this machine has no device {name!r} that torch {torch.__version__} can merge on; "
            f"use one of {', '.join(here)} for --device"
        )
    if name == _TORCH_CPU:
        return Device(name, f"{name}, torch {torch.__version__}", torch, torch.device("cpu"), 8)
    place = torch.device(name)
    title = torch.cuda.get_device_name(place)
    return Device(name, f"{name} ({title}), torch {torch.__version__}", torch, place, 2)


@final
class _Ranked(Work):
    """As `by_ranks`, with rows that are tensors."""

    def __init__(
        self,
        task: Task,
        device: Device,
        places: Callable[[int, Parameters], tuple[int, int]],
        rows: Callable[[Any, Parameters], Any],
    ) -> None:
        self._device, self._parameters, self._rows = device, task.parameters, rows
        self._first, self._last = places(task.n_inputs, task.parameters)

    def rows(self, start: int, panel: Doubles) -> Doubles:
        return self.rows_of_feed(Feed.of(panel, start))

    def rows_of_feed(self, feed: Feed) -> Doubles:
        torch = self._device.torch
        keys = self._device.put(feed).view(torch.int64)
        keys = (keys ^ (keys >> 63 & _MAGNITUDE)).sort(dim=0).values[self._first : self._last]
        values = (keys ^ (keys >> 63 & _MAGNITUDE)).view(torch.float64)
        return self._device.take(self._rows(values, self._parameters))[None]


def _median(ranked: Any, parameters: Parameters) -> Any:
    low, high = ranked[0], ranked[-1]
    return low + (high - low) / 2


def _mean(ranked: Any) -> Any:
    total = ranked[0] * 0
    for row in ranked:
        total = total + row
    return total / len(ranked)


def _trimmed_mean(ranked: Any, parameters: Parameters) -> Any:
    return _mean(ranked).maximum(ranked[0]).minimum(ranked[-1])


def _element_geometric_median(ranked: Any, parameters: Parameters) -> Any:
    """As in `elements`; columns that have come to rest are computed on and not taken."""
    guard, ftol = float(parameters["eps_guard"]), float(parameters["ftol"])
    y = _mean(ranked)
    moving, before = y == y, y * 0 + float("inf")
    for _ in range(int(parameters["maxiter"])):
        if not bool(moving.any()):
            break
        weights = total = spread = y * 0
        for row in ranked:
            distance = (row - y).abs()
            spread = spread + distance
            weight = 1 / distance.clamp(min=guard)
            weights = weights + weight
            total = total + weight * row
        inside = (total / weights).maximum(ranked[0]).minimum(ranked[-1])
        y = inside.where(moving, y)
        moving = moving & ((before - spread).abs() > ftol * spread)
        before = spread
    return y


def _by_gram(solve: Callable[[Gram, Parameters], Any]) -> Callable[[Task, Device], Work]:
    return lambda task, device: GramWork(task, solve, device.products)


def _by_ranks(
    places: Callable[[int, Parameters], tuple[int, int]], rows: Callable[[Any, Parameters], Any]
) -> Callable[[Task, Device], Work]:
    return lambda task, device: _Ranked(task, device, places, rows)


def _by_svd(
    change: Callable[[Any, Parameters], Any],
) -> Callable[[Task, Device], Work]:
    def start(task: Task, device: Device) -> Work:
        def on_device(delta: Doubles, parameters: Parameters) -> Doubles:
            if delta.ndim < 2 or not delta.any():
                return delta
            matrix = device.put(Feed.of(delta.reshape(len(delta), -1)))
            u, s, vt = device.torch.linalg.svd(matrix, full_matrices=False)
            s = change(s, parameters)
            size = len(s)
            return device.take((u[:, :size] * s) @ vt[:size]).reshape(delta.shape)

        from stockpot.recipes import FUNCTIONS

        return by_tensor(FUNCTIONS["isotropic"], on_device, 7).start(task)

    return start


def _isotropic(s: Any, parameters: Parameters) -> Any:
    return s.mean() + float(parameters["z"]) * (s - s.mean())


def _low_rank(s: Any, parameters: Parameters) -> Any:
    return s[: int(parameters["rank"])]


#: What runs on a device, by method; the others run on the processor.
FORMS: Mapping[str, Callable[[Task, Device], Work]] = MappingProxyType({
    "slerp": _by_gram(spans.slerp),
    "karcher_mean": _by_gram(spans.karcher_mean),
    "stock": _by_gram(spans.stock),
    "geometric_median": _by_gram(spans.geometric_median),
    "median": _by_ranks(elements.middle_places, _median),
    "trimmed_mean": _by_ranks(elements.inner_places, _trimmed_mean),
    "element_geometric_median": _by_ranks(elements.all_places, _element_geometric_median),
    "isotropic": _by_svd(_isotropic),
    "low_rank": _by_svd(_low_rank),
})  # fmt: skip


def runs_on_devices(name: str) -> bool:
    """Whether a method has a form for devices.

    Args:
        name: Of the method.

    Returns:
        Whether its panels go to the device that was named.

    Example:
        >>> runs_on_devices("median"), runs_on_devices("masked")
        (True, False)
    """
    return name in FORMS


def begin(method: Method, task: Task, device: Device | None) -> Work:
    """Begin the work on a tensor, on a device where one is named and the method has a form for it.

    Args:
        method: Which.
        task: The tensor.
        device: Where; None for the processor.

    Returns:
        The work.
    """
    if device is None or method.name not in FORMS:
        return method.start(task)
    return FORMS[method.name](task, device)
