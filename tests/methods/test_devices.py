"""Methods on every device that torch has here, against the processor's results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from stockpot.errors import DeviceError
from stockpot.methods import METHODS, open_device, runs_on_devices
from stockpot.methods.devices import FORMS

Arrays = dict[str, np.ndarray]
Merge = Callable[..., Arrays]

DEVICES = ["torch-cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
#: Of each method that has a form, calls with the processor's bytes, or near them.
CALLS = {
    "median": ["median(a, b, c)", "median(a, b, c, d)", "base + median(a - base, b - base)"],
    "trimmed_mean": ["trimmed_mean(a, b, c, d, e, cut=0.2)"],
    "element_geometric_median": ["element_geometric_median(a, b, c, d)"],
    "geometric_median": [
        "geometric_median(a, b, c, d)", "tgmd(base, a, b, c, p=0.3)", "dgmla(base, a, b, c)",
        "geometric_median(a, a, b, c)",
    ],
    "stock": ["model_stock(base, a, b, c)"],
    "slerp": ["slerp(a, b, 0.3)"],
    "karcher_mean": ["karcher_mean(a, b, c)"],
    "isotropic": ["iso_c(base, a)", "iso_z(dgmla(base, a, b, c), z=0.5)"],
    "low_rank": ["base + low_rank(a - base, rank=2)", "base + low_rank(a - base, rank=1000)",
                 "base + low_rank(a - base, rank=0)"],
}  # fmt: skip
#: Weiszfeld's iteration stops where the sum of distances no longer falls in doubles; weights are
#: then known to some 1e-8, which single precision shows.
UNKNOWN = {"geometric_median": 1e-6}
EXACT = {"median", "trimmed_mean", "element_geometric_median"}


def bits(arrays: Arrays) -> dict[str, bytes]:
    return {key: value.tobytes() for key, value in arrays.items()}


def agree(one: Arrays, other: Arrays, slack: float = 1e-12) -> bool:
    """Whether values differ by one step of their type at most.

    What is left of large summands that cancel may differ by more of its own small steps.
    """
    for key, value in one.items():
        if value.dtype == np.uint16:  # bfloat16: the first half of a float
            a, b = ((x.astype(np.uint32) << 16).view(np.float32) for x in (value, other[key]))
            step = np.spacing(np.abs(a)) * 2**16
        else:
            a, b, step = value, other[key], np.spacing(np.abs(value))
        room = slack * np.abs(a).max(initial=0)
        if not (np.abs(a.astype(np.float64) - b) <= step + room).all():
            return False
    return True


def test_every_form_is_tried() -> None:
    assert set(FORMS) == set(CALLS) <= set(METHODS)
    assert not runs_on_devices("masked")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted(CALLS))
def test_results_are_the_processors_to_one_rounding(device: str, name: str, merge: Merge) -> None:
    for expression in CALLS[name]:
        here = merge(expression, dtype="fp32")
        there = merge(expression, dtype="fp32", device=device)
        assert agree(here, there, UNKNOWN.get(name, 1e-12)), expression
        assert bits(here) == bits(there) or name not in EXACT, expression
        cut = merge(expression, dtype="fp32", device=device, chunk_elements=320)
        assert bits(cut) == bits(there), expression


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_the_same_in_narrow_types(device: str, dtype: str, merge: Merge) -> None:
    for name in ("geometric_median", "isotropic", "slerp"):
        here = merge(CALLS[name][0], dtype=dtype)
        assert agree(here, merge(CALLS[name][0], dtype=dtype, device=device)), name


@pytest.mark.parametrize("device", DEVICES)
def test_long_tensors_of_every_type(device: str, merge: Merge) -> None:
    """Several blocks of inner products, and rows in all types that are read."""
    rng = np.random.default_rng(5)
    base = 0.05 * rng.standard_normal(40_000)
    for kind in (np.float16, np.float32, np.float64):
        models = {
            name: {"long": (base + 0.005 * rng.standard_normal(base.shape)).astype(kind)}
            for name in "abc"
        }
        for expression in ("geometric_median(a, b, c)", "median(a, b, c)"):
            here = merge(expression, models, dtype="fp32")
            there = merge(expression, models, dtype="fp32", device=device)
            cut = merge(expression, models, dtype="fp32", device=device, chunk_elements=5_000)
            assert agree(here, there, 1e-6) and bits(there) == bits(cut)
            if expression.startswith("median"):
                assert bits(here) == bits(there)


@pytest.mark.parametrize("device", DEVICES)
def test_threads_and_orders_do_not_show(device: str, merge: Merge) -> None:
    for expressions in (
        ("geometric_median(a, b, c)", "geometric_median(c, a, b)"),
        ("trimmed_mean(a, b, c, cut=0.34)", "trimmed_mean(b, c, a, cut=0.34)"),
    ):
        found = [
            bits(merge(expression, device=device, threads=threads, compiled=compiled))
            for expression in expressions
            for threads, compiled in ((4, True), (2, False))
        ]
        assert all(one == found[0] for one in found)


def test_a_device_that_is_not_there(merge: Merge) -> None:
    for name in ("cuda:99", "tpu", ""):
        with pytest.raises(DeviceError, match=r"has no device .* use one of cpu, torch-cpu"):
            open_device(name)
    with pytest.raises(DeviceError, match="has no device 'cuda:99'"):
        merge("mean(a, b)", device="cuda:99")
