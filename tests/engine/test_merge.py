"""What a merge writes: values, types, copies, names, notes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stockpot.checkpoints import (
    DTYPES,
    MemorySource,
    TensorInfo,
    content_hash,
    hash_tensors,
    open_checkpoint,
)
from stockpot.engine import MergeResult, Progress, Settings, merge, merge_in_memory
from stockpot.errors import CheckpointError
from stockpot.layouts import Cell, get_layout, get_profile, spread
from stockpot.recipes import make_recipe

Save = Callable[..., Path]
Model = Callable[..., dict[str, torch.Tensor]]
TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
SPOKEN = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16",
          "F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2"}  # fmt: skip
POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def run(mix: Any, out: str = "out", **files: Path) -> tuple[dict[str, torch.Tensor], MergeResult]:
    """Merge files; the output's tensors."""
    folder = next(iter(files.values())).parent
    recipe = make_recipe(mix, {name: path.name for name, path in files.items()})
    result = merge(recipe, folder / f"{out}.safetensors", folder=folder)
    return load_file(result.path), result


def source(rows: dict[str, torch.Tensor], name: str) -> MemorySource:
    """Tensors in memory, of any float type."""
    kinds = {kind: DTYPES[key] for key, kind in TORCH.items()}
    return MemorySource(
        {
            key: (
                TensorInfo(key, kinds[row.dtype], tuple(row.shape)),
                row.flatten().view(torch.uint8).numpy().tobytes(),
            )
            for key, row in rows.items()
        },
        name=name,
    )


def within_one_rounding(got: torch.Tensor, wanted: np.ndarray[Any, Any], name: str) -> None:
    """Half a unit in the last place, and what doubles may lose on the way."""
    dtype = DTYPES[name]
    exponent = np.maximum(np.frexp(wanted)[1] - 1, dtype.min_exponent)
    half = np.ldexp(0.5, exponent - dtype.mantissa_bits)
    slack = 2.0**-50  # inputs are of the order of 1
    assert (np.abs(got.double().numpy() - wanted) <= half + slack).all()


MIXES: dict[str, tuple[str, dict[str, Fraction]]] = {
    "mean": ("mean(a, b, c)", dict.fromkeys("abc", Fraction(1, 3))),
    "weighted sum": ("lerp(a, b, 0.3)", {"a": Fraction(7, 10), "b": Fraction(3, 10)}),
    "add difference": (
        "a + 0.7*(b - c)",
        {"a": Fraction(1), "b": Fraction(7, 10), "c": Fraction(-7, 10)},
    ),
}


@pytest.mark.parametrize("mix", MIXES)
@given(
    inner=st.lists(st.sampled_from(sorted(TORCH)), min_size=3, max_size=3),
    out=st.sampled_from(sorted(TORCH)),
    seed=st.integers(0, 2**31),
    chunk=st.sampled_from([7, 64, 1000]),
)
@settings(max_examples=30, deadline=None)
def test_a_float64_reference_to_one_rounding(
    mix: str, inner: list[str], out: str, seed: int, chunk: int
) -> None:
    expression, weights = MIXES[mix]
    rng = np.random.default_rng(seed)
    rows = {
        name: torch.from_numpy(rng.normal(0, 0.5, (5, 40))).to(TORCH[kind])
        for name, kind in zip("abc", inner, strict=True)
    }
    recipe = make_recipe(expression, {name: name for name in weights})
    sources = {name: source({"w": rows[name]}, name) for name in weights}
    merged = merge_in_memory(
        recipe, sources, dtype=SPOKEN[out], settings=Settings(chunk_elements=chunk, threads=1)
    )
    wanted = sum(float(w) * rows[name].double().numpy() for name, w in weights.items())
    got = torch.frombuffer(bytearray(merged.read_bytes("w")), dtype=TORCH[out]).reshape(5, 40)
    assert merged.info("w").shape == (5, 40)
    within_one_rounding(got, np.asarray(wanted), out)


@given(
    a=st.sampled_from(sorted(TORCH)),
    b=st.sampled_from(sorted(TORCH)),
    out=st.sampled_from(sorted(TORCH)),
    weights=st.lists(st.integers(-20, 40).map(lambda n: n / 20), min_size=27, max_size=27),
)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_block_weights(a: str, b: str, out: str, weights: list[float]) -> None:
    layout, profile = get_layout("zoo"), get_profile("autombw")
    keys = [key for key, spec in layout.specs.items() if spec.cell.component == "unet"]
    rng = np.random.default_rng(1)
    models = {
        name: {key: torch.from_numpy(rng.normal(0, 0.5, layout.specs[key].shape)).to(TORCH[kind])
               for key in keys} for name, kind in (("a", a), ("b", b))
    }  # fmt: skip
    recipe = make_recipe(f'lerp(a, b, blocks("autombw", {weights}))', {"a": "a", "b": "b"})
    sources = {name: source(rows, name) for name, rows in models.items()}
    merged = merge_in_memory(recipe, sources, dtype=SPOKEN[out])
    table = spread(profile, [Fraction(str(w)) for w in weights], layout)
    for key in keys[::9]:
        t = float(table[layout.cell_of(key)])
        wanted = (1 - t) * models["a"][key].double() + t * models["b"][key].double()
        got = torch.frombuffer(bytearray(merged.read_bytes(key)), dtype=TORCH[out])
        within_one_rounding(got.reshape(wanted.shape), wanted.numpy(), out)


def test_a_mix_for_each_component(save: Save, model: Model) -> None:
    tensors = {name: model("te", "vae", seed=i) for i, name in enumerate("abc")}
    files = {name: save(name, rows) for name, rows in tensors.items()}
    merged, result = run({"te": "b", "vae": "mean(a, c)"}, **files)
    assert merged.keys() == tensors["a"].keys()
    for key, row in merged.items():
        if key.startswith("cond"):
            assert torch.equal(row, tensors["b"][key])
        else:
            wanted = (tensors["a"][key].double() + tensors["c"][key].double()) / 2
            assert torch.equal(row, wanted.half())
    actions = {tensor.cell.component: tensor.action for tensor in result.plan.tensors.values()}
    assert actions == {"te": "copy", "vae": "combine"}
    assert result.plan.fold.rows[Cell("te", "final")] == {"b": 1}
    assert set(result.components) == {"te", "vae"}


def test_a_copy_is_exact_to_the_byte(save: Save) -> None:
    rows: dict[str, torch.Tensor] = {
        key: torch.frombuffer(bytearray(range(200)), dtype=kind)
        for key, kind in (("i8", torch.int8), ("i64", torch.int64), ("u8", torch.uint8))
    }
    rows["flags"] = torch.tensor([True, False])
    rows["minus zero"] = torch.tensor([-0.0, 1e-7]).half()
    rows["f8"] = torch.tensor([0.5, -448.0]).to(torch.float8_e4m3fn)
    merged, result = run("1*a", a=save("a", rows))
    assert merged.keys() == rows.keys()
    for key, row in rows.items():
        assert merged[key].dtype == row.dtype
        assert torch.equal(merged[key].view(torch.uint8), row.view(torch.uint8))
    assert {tensor.action for tensor in result.plan.tensors.values()} == {"copy"}


def test_types_follow_the_inputs(save: Save) -> None:
    row = torch.tensor([1.0, 2.0])
    copy = row.clone()  # the library refuses to save one tensor twice
    a = save("a", {"same": row.half(), "mixed": row.half(), "wide": row.bfloat16(),
                   "double": row.double(), "tiny": row.to(torch.float8_e4m3fn)})  # fmt: skip
    b = save("b", {"same": row.half(), "mixed": row, "wide": row.half(),
                   "double": copy, "tiny": row.to(torch.float8_e5m2)})  # fmt: skip
    merged, _ = run("mean(a, b)", a=a, b=b)
    kinds = {key: value.dtype for key, value in merged.items()}
    assert kinds == {"same": torch.float16, "mixed": torch.float32, "wide": torch.float32,
                     "double": torch.float64, "tiny": torch.float16}  # fmt: skip


def test_types_by_component(save: Save, model: Model) -> None:
    a = save("a", model("te", "vae"))
    recipe = make_recipe("1*a", {"a": str(a)})
    path = a.parent / "out.safetensors"
    merge(recipe, path, dtype={"model": "bf16", "vae": "fp32"})
    for key, row in load_file(path).items():
        assert row.dtype == (torch.float32 if key.startswith("first") else torch.bfloat16)


def test_names_and_shapes_of_other_savers(save: Save, model: Model) -> None:
    plain, other = model("te", "vae"), model("te", "vae", seed=1)
    odd = {key.replace("transformer.text_model.", "transformer."): row
           for key, row in other.items()}  # fmt: skip
    query = "first_stage_model.decoder.mid.attn_1.q.weight"
    odd[query] = odd[query].reshape(odd[query].shape[:2])
    a, b = save("a", plain), save("b", odd)
    merged, _ = run("mean(a, b)", a=a, b=b)
    assert merged.keys() == plain.keys()
    assert merged[query].shape == plain[query].shape
    for key, row in merged.items():
        assert torch.equal(row, ((plain[key].double() + other[key].double()) / 2).half())
    alone, _ = run("1*b", "alone", b=b)
    assert alone.keys() == plain.keys()
    assert alone[query].dim() == 2  # nothing to settle with one model


def test_position_ids_are_made_anew(save: Save, model: Model) -> None:
    n = get_layout("zoo").specs[POSITIONS].shape[-1]
    spoilt = {POSITIONS: (torch.arange(n) * 0.999).half().reshape(1, n)}
    a, b = save("a", model("te") | spoilt), save("b", model("te", seed=1))
    merged, result = run("mean(a, b)", a=a, b=b)
    assert torch.equal(merged[POSITIONS], torch.arange(n)[None])
    assert result.plan.tensors[POSITIONS].action == "make"
    without, _ = run("1*b", "without", b=b)
    assert POSITIONS not in without


def test_what_one_model_lacks_and_nobody_needs(save: Save, model: Model) -> None:
    ema = {"model_ema.diffusion_modelout2bias": torch.zeros(4).half(),
           "what.is.this": torch.zeros(4).half()}  # fmt: skip
    a, b = save("a", model("te") | ema), save("b", model("te", seed=1))
    merged, result = run("mean(a, b)", a=a, b=b)
    assert merged.keys() == model("te").keys()
    notes = [str(note) for note in result.plan.notes if note.code == "dropped-keys"]
    assert notes == ["a: model_ema.diffusion_modelout2bias, what.is.this left out: b lack them"]
    kept, _ = run("1*a", "kept", a=a)
    assert kept.keys() == model("te").keys() | ema.keys()


def test_counters_of_averages_that_differ_are_left_out(save: Save, model: Model) -> None:
    def trained(n: int) -> dict[str, torch.Tensor]:
        return model("te") | {"model_ema.num_updates": torch.tensor(n, dtype=torch.int32)}

    a, b = save("a", trained(100)), save("b", trained(200))
    merged, result = run("mean(a, b)", a=a, b=b)
    assert merged.keys() == model("te").keys()
    (note,) = [str(note) for note in result.notes if note.code == "dropped-keys"]
    assert "model_ema.num_updates left out: they differ" in note


def test_whole_numbers_are_filled_in_too(save: Save) -> None:
    a = save("a", {"w": torch.ones(2).half()})
    b = save("b", {"w": torch.zeros(2).half(), "n": torch.tensor([7])})
    merged, _ = run("a | b", a=a, b=b)
    assert merged["n"].tolist() == [7]
    assert merged["w"].tolist() == [1.0, 1.0]


def test_a_component_that_nobody_has_is_left_out_with_a_note(save: Save, model: Model) -> None:
    a, b = save("a", model("te")), save("b", model("te", seed=1))
    _, result = run("mean(a, b)", a=a, b=b)
    assert sum(note.code == "absent-component" for note in result.plan.notes) == 2


def test_infinities_pass_only_when_allowed(save: Save, tmp_path: Path) -> None:
    inf = float("inf")
    a = save("a", {"w": torch.tensor([inf, 1.0, float("nan"), inf]).half()})
    b = save("b", {"w": torch.tensor([1.0, 2.0, 1.0, -inf]).half()})
    recipe = make_recipe("mean(a, b)", {"a": str(a), "b": str(b)})
    for compiled in (True, False):
        path = tmp_path / f"{compiled}.safetensors"
        merge(recipe, path, settings=Settings(allow_nonfinite=True, compiled=compiled))
        got = load_file(path)["w"].tolist()
        assert got[:2] == [inf, 1.5] and all(map(math.isnan, got[2:]))
        with pytest.raises(CheckpointError, match="element 0 is NaN or infinite"):
            merge(recipe, tmp_path / "no", settings=Settings(compiled=compiled))


def test_memory_and_file_agree(save: Save) -> None:
    a, b = save("a"), save("b", seed=1)
    _, result = run("mean(a, b)", a=a, b=b)
    with open_checkpoint(a) as one, open_checkpoint(b) as two:
        recipe = make_recipe("mean(a, b)", {"a": "a.safetensors", "b": "b.safetensors"})
        merged = merge_in_memory(recipe, {"a": one, "b": two})
    with open_checkpoint(result.path) as made:
        assert made.metadata == merged.metadata
        assert made.tensors == merged.tensors
        assert all(made.read_bytes(key) == merged.read_bytes(key) for key in made.tensors)


def test_the_file_says_where_it_came_from(save: Save) -> None:
    a, b = save("a"), save("b", seed=1)
    _, result = run("mean(a, b)", a=a, b=b)
    with open_checkpoint(result.path) as made:
        metadata = dict(made.metadata)
        assert result.content_hash == content_hash(made.tensors, hash_tensors(made))
    provenance = json.loads(metadata["stockpot.provenance"])
    assert provenance["content"] == result.content_hash
    assert provenance["components"] == dict(result.components)
    with open_checkpoint(a) as one:
        whole = content_hash(one.tensors, hash_tensors(one))
        size = [len(one.tensors), sum(info.n_bytes for info in one.tensors.values())]
        assert provenance["inputs"]["a"] == {
            "components": {"model": whole},
            "made": None,
            "sizes": {"model": size},
        }
    assert "mean(a, b)" in metadata["stockpot.recipe"]
    assert str(a.parent) not in json.dumps(metadata)
    assert result.n_bytes == result.path.stat().st_size


def test_without_hashes_none_is_claimed(save: Save) -> None:
    recipe = make_recipe("1*a", {"a": str(save("a"))})
    path = save("a").parent / "out.safetensors"
    result = merge(recipe, path, settings=Settings(hashes=False, verify=False))
    assert (result.content_hash, result.components) == (None, {})
    with open_checkpoint(path) as made:
        assert json.loads(made.metadata["stockpot.provenance"])["content"] is None


def test_progress_ends_at_the_end(save: Save) -> None:
    a, b = save("a"), save("b", seed=1)
    seen: list[Progress] = []
    recipe = make_recipe("mean(a, b)", {"a": str(a), "b": str(b)})
    merge(recipe, a.parent / "out.safetensors", progress=seen.append)
    last = {progress.stage: progress for progress in seen}
    assert list(last) == ["merging", "checking"]
    for progress in last.values():
        assert progress.done_bytes == progress.total_bytes
        assert progress.eta_s == 0
        assert progress.rate > 0
    assert Progress("merging", 0, 10, 0.0).eta_s == math.inf


def test_a_source_that_fails_midway_leaves_nothing(save: Save, tmp_path: Path) -> None:
    a, b = save("a", {f"k{i}": torch.ones(5000) for i in range(20)}), tmp_path / "b.safetensors"
    save_file({f"k{i}": torch.ones(5000) for i in range(20)}, b)
    recipe = make_recipe("mean(a, b)", {"a": str(a), "b": str(b)})
    with open_checkpoint(a) as one, open_checkpoint(b) as two:
        with b.open("r+b") as file:
            file.truncate(b.stat().st_size - 10)
        for threads in (1, 4):
            with pytest.raises(CheckpointError, match="b.safetensors: the file ends at byte"):
                merge(recipe, tmp_path / "out", sources={"a": one, "b": two},
                      settings=Settings(threads=threads))  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
