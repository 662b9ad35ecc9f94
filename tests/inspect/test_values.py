"""What values tell, against plain numpy; the toolkit's numbers, against plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stockpot.checkpoints import DTYPES, GeneratedSource, MemorySource, TensorInfo
from stockpot.inspect import Inspection, Wanted, inspect_checkpoint
from stockpot.layouts import Shape, get_layout

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504.0, -65504.0, 65505.0, 65520.0, 1e30, 2.0**-24,
           2.0**-25, 2.0**-149, 1.0, 1.0 + 2**-10, 1.0 + 2**-11, 2.0**-14 + 2**-25]  # fmt: skip
KINDS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
TORCH = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def deep(arrays: dict[str, np.ndarray]) -> Inspection:
    names = {"f": "F", "i": "I"}
    tensors = {
        key: (
            TensorInfo(key, DTYPES[f"{names[a.dtype.kind]}{8 * a.dtype.itemsize}"], a.shape),
            a.tobytes(),
        )
        for key, a in arrays.items()
    }
    return inspect_checkpoint(MemorySource(tensors), Wanted(deep=True))


def messages(found: Inspection, key: str = "a") -> dict[str, str]:
    return {p.code: p.message for p in found.problems if p.where in (key, "")}


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_counts_agree_with_numpy(name: str, data: st.DataObject) -> None:
    kind = KINDS[name]
    width = 8 * np.dtype(kind).itemsize
    elements = st.sampled_from(SPECIAL) | st.floats(width=width)
    with np.errstate(over="ignore"):
        values = np.array(data.draw(st.lists(elements, min_size=2, max_size=40)), np.float64)
        array = values.astype(kind)
        half = array.astype(np.float16).astype(kind)
    told = messages(deep({"a": array}))
    n = len(array)
    finite = np.isfinite(array)
    counts = {
        "nan": int(np.isnan(array).sum()),
        "inf": int(np.isinf(array).sum()),
        "fp16-overflow": int((finite & (np.abs(array) > 65504)).sum()),
    }
    for code, count in counts.items():
        expected = f"{count:,} of {n:,} values" if count else None
        assert told[code].startswith(expected) if expected else code not in told, (code, array)
    assert ("all-zero" in told) == bool((array == 0).all())
    fits = bool(((half == array) | np.isnan(array)).all())
    assert ("lossless-fp16" in told) == (fits and name != "F16")


@pytest.mark.parametrize("name", TORCH)
def test_narrow_types_by_all_their_patterns(name: str) -> None:
    size = DTYPES[name].itemsize
    patterns = np.arange(1 << (8 * size), dtype=f"u{size}")
    values = torch.from_numpy(patterns.view(f"i{size}").copy()).view(TORCH[name]).double()
    info = TensorInfo("a", DTYPES[name], (len(patterns),))
    found = inspect_checkpoint(MemorySource({"a": (info, patterns.tobytes())}), Wanted(deep=True))
    told = messages(found)
    counts = {
        "nan": int(values.isnan().sum()),
        "inf": int(values.isinf().sum()),
        "fp16-overflow": int((values.isfinite() & (values.abs() > 65504)).sum()),
    }
    for code, count in counts.items():
        got = int(told[code].split(" ")[0].replace(",", "")) if code in told else 0
        assert got == count, code


@pytest.mark.parametrize("place", [0, 1023, 65535, 65536, 200_000, 299_999])
def test_one_bad_value_is_found_wherever_it_stands(place: int) -> None:
    array = np.ones(300_000, np.float32)
    array[place] = np.float32(1 + 2**-20)
    assert "lossless-fp16" not in messages(deep({"a": array}))
    array[place] = 70000
    assert "fp16-overflow" in messages(deep({"a": array}))
    array[place] = np.nan
    assert messages(deep({"a": array}))["nan"] == "1 of 300,000 values"
    half = np.zeros(3_000_000, np.float16)
    half[place * 9] = 2.0**-24
    assert "all-zero" not in messages(deep({"a": half}))


def test_every_bad_tensor_is_named_and_waste_is_counted() -> None:
    arrays = {f"k{n}": np.full(4, np.nan, np.float32) for n in range(50)}
    arrays["good"] = np.ones(100, np.float32)
    arrays["ids"] = np.zeros(10, np.int64)
    found = deep(arrays)
    assert {p.where for p in found.problems if p.code == "nan"} == {f"k{n}" for n in range(50)}
    assert found.waste.lossless == found.waste.wide == 2 * (200 + 100)
    assert found.deep and found.components["model"].hash and found.content_hash
    assert deep({"one": np.zeros(1, np.float16)}).problems == ()


def test_hashes_do_not_depend_on_what_else_is_asked() -> None:
    rng = np.random.default_rng(0)
    tensors = {}
    for number in range(20):
        key = f"t{number}"
        info = TensorInfo(key, DTYPES["F16"], (97, 31))
        tensors[key] = (info, rng.standard_normal((97, 31)).astype(np.float16).tobytes())
    source = MemorySource(tensors)
    plain = inspect_checkpoint(source, Wanted(components=True))
    for wanted in (Wanted(deep=True), Wanted(toolkit=True), Wanted(deep=True, toolkit=True)):
        assert inspect_checkpoint(source, wanted).content_hash == plain.content_hash
    assert inspect_checkpoint(source).content_hash is None


def component(name: str, which: str) -> dict[str, Shape]:
    return {
        key: spec.shape
        for key, spec in get_layout(name).specs.items()
        if spec.cell.component == which and not spec.optional
    }


BASES = {
    ("sd1", "unet"): (-6131.54, 10**4), ("sd2", "unet"): (-6131.54, 10**4),
    ("sd1", "vae"): (17870.7051, 10**4), ("sdxl", "vae"): (17870.7051, 10**4),
    ("sd1", "te"): (-2097.8596, 10**6), ("sd2", "te"): (-8757.563, 10**4),
}  # fmt: skip


def reference(source: GeneratedSource, name: str, which: str, kind: torch.dtype) -> int:
    """The toolkit's number as its definition says it, over whole tensors."""
    total = 0.0
    for key, info in source.tensors.items():
        short = key.removeprefix("first_stage_model.")
        if which == "vae" and not short.startswith(("encoder", "decoder")):
            continue
        if which == "te" and ("mlp." not in key or ".23." in key):
            continue
        data = torch.frombuffer(bytearray(source.read_bytes(key)), dtype=torch.float16)
        if info.dtype.name == "F32":
            data = torch.frombuffer(bytearray(source.read_bytes(key)), dtype=torch.float32)
        total += float((torch.sigmoid(data.half().to(kind)) - 0.5).double().sum())
    base, factor = BASES[name, which]
    number = int(abs(total / base - 1) * factor)
    while number >= 10_000:
        number -= 5_000
    return number


@pytest.mark.parametrize(("name", "which"), BASES, ids=str)
def test_toolkit_agrees_with_torch(
    name: str, which: str, shaped: Callable[..., GeneratedSource]
) -> None:
    shapes = component(name, which)
    source = shaped(shapes, "F32" if (name, which) == ("sdxl", "vae") else "F16")
    place = ("unet", "vae", "te").index(which)
    found = inspect_checkpoint(source, Wanted(toolkit=True))
    assert found.toolkit is not None
    parts = found.toolkit.split("/")
    assert [part for number, part in enumerate(parts) if number != place] == ["----"] * 2
    got = int(parts[place])
    if which == "unet":
        # Single precision, as the toolkit has it, rounds each value of the sigmoid.
        assert abs(got - reference(source, name, which, torch.float32)) <= 1
    else:
        assert got == reference(source, name, which, torch.float64)


def test_toolkit_does_not_see_order_and_sees_nan() -> None:
    noise = np.sort(np.random.default_rng(1).standard_normal(1 << 16)).astype(np.float16)
    sums = set()
    for order in (1, -1):
        tensors = {}
        for key, shape in list(component("sd1", "vae").items())[:80]:
            values = np.resize(noise, math.prod(shape))
            info = TensorInfo(key, DTYPES["F16"], shape)
            tensors[key] = (info, values[::order].tobytes())
        text = inspect_checkpoint(MemorySource(tensors), Wanted(toolkit=True)).toolkit
        sums.add(text)
    assert len(sums) == 1
    key = next(iter(tensors))
    info, _ = tensors[key]
    broken = {**tensors, key: (info, np.full(info.n_elements, np.nan, np.float16).tobytes())}
    assert inspect_checkpoint(MemorySource(broken), Wanted(toolkit=True)).toolkit == (
        "----/nan!/----"
    )


@given(values=hnp.arrays(np.float32, st.integers(1, 50)))
@settings(max_examples=30, deadline=None)
def test_wide_values_are_rounded_to_fp16_first(values: np.ndarray) -> None:
    from stockpot.inspect.toolkit import Toolkit

    counter = Toolkit("sdxl", lambda key: ("vae", key))
    info = TensorInfo("decoder.x", DTYPES["F32"], values.shape)
    counter.watch(info, memoryview(values).cast("B"))
    with np.errstate(over="ignore"):
        half = torch.from_numpy(values.astype(np.float16)).double()
    expected = float((torch.sigmoid(half) - 0.5).sum())
    got = counter.sums()["vae"]
    assert got == pytest.approx(expected, abs=1e-9) or (math.isnan(got) and math.isnan(expected))
