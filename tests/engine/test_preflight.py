"""What headers can tell is told before anything is written, all at once, by file and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stockpot.checkpoints import Source, open_checkpoint
from stockpot.engine import Settings, make_plan, merge, open_pool, take_chunks
from stockpot.errors import (
    LayoutError,
    MemoryBudgetError,
    OutputError,
    OutputExistsError,
    PreflightError,
    RecipeError,
    StockpotError,
    UnknownNameError,
)
from stockpot.layouts import get_layout
from stockpot.recipes import make_recipe

Save = Callable[..., Path]
Model = Callable[..., dict[str, torch.Tensor]]
NORM = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
FIRST = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.bias"


def refuse(mix: object, *paths: Path, error: type[Exception] = PreflightError) -> list[str]:
    """Lines of the message with which a merge of these files is refused; no file may appear."""
    folder = paths[0].parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    recipe = make_recipe(mix, {path.stem: path.name for path in paths})  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        merge(recipe, folder / "out.safetensors", folder=folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    return str(caught.value).splitlines()


def test_a_missing_key(save: Save, model: Model) -> None:
    pruned = model("te", seed=1)
    del pruned[NORM], pruned[FIRST]
    a, b = save("a", model("te")), save("b", pruned)
    (line,) = refuse("mean(a, b)", a, b)
    assert line == (
        f"{b}: its te lacks {FIRST}, {NORM}; "
        "fill it from another model: `b | other`, or leave the model out"
    )


def test_many_missing_keys_are_counted(save: Save, model: Model) -> None:
    pruned = dict(list(model("te", seed=1).items())[:20])
    (line,) = refuse("mean(a, b)", save("a", model("te")), save("b", pruned))
    assert "and 13 more keys; fill it" in line


def test_a_missing_key_of_an_unknown_layout(save: Save) -> None:
    a, b = save("a"), save("b", {"a.bias": torch.zeros(70).half(), "scalar": torch.zeros(())})
    (line,) = refuse("mean(a, b)", a, b)
    assert line.startswith(f"{b}: its model lacks b.weight; fill it from another model")


def test_another_shape(save: Save, model: Model) -> None:
    other = model("te", seed=1)
    other[NORM] = torch.zeros(65).half()
    b = save("b", other)
    (line,) = refuse("mean(a, b)", save("a", model("te")), b)
    assert line == (
        f"{b}: {NORM}: the shape must be [64] as in the others, but is [65]; "
        "this model cannot be merged with the others as it is"
    )


def test_another_architecture(save: Save, model: Model) -> None:
    noise = {k: torch.zeros(1).half() for k in ("double_blocks.0.img.weight", "final.bias")}
    a, b = save("a", model("te")), save("b", noise)
    (line,) = refuse("mean(a, b)", a, b)
    assert line == (
        f"{b}: models of one mix must be of one architecture, but this is unknown layout (no key "
        "begins as those of a UNet, text encoder or VAE of a checkpoint do) and "
        f"{a} is {get_layout('zoo').title}; take one of them out of the mix"
    )


def test_a_stranger_that_nothing_reads_is_only_noted(save: Save, model: Model) -> None:
    big = {key: torch.zeros(spec.shape).half() for key, spec in get_layout("sd1").specs.items()
           if spec.cell.component == "te" and not spec.optional and "embedding" not in key
           and "fc" not in key}  # fmt: skip
    a, b = save("a", model("te")), save("b", big)
    recipe = make_recipe("1*a", {"a": str(a), "b": str(b)})
    with open_pool(recipe) as sources:
        plan = make_plan(recipe, sources)
    assert plan.layout.name == "zoo"
    assert [note.code for note in plan.notes if note.code == "unused-model"] == ["unused-model"]


def test_a_truncated_file(save: Save) -> None:
    a, b = save("a"), save("b", seed=1)
    with b.open("r+b") as file:
        file.truncate(b.stat().st_size - 1)
    (line,) = refuse("mean(a, b)", a, b)
    assert line.startswith(f"pool: b: {b}: the header promises 4342 bytes of tensors, but the file")
    assert line.endswith("it was cut off: get it again")


def test_files_that_cannot_be_opened_are_all_named(save: Save, tmp_path: Path) -> None:
    a = save("a")
    recipe = make_recipe("mean(a, x, y)", {"a": "a.safetensors", "x": "x.st", "y": "y.st"})
    with pytest.raises(PreflightError) as caught:
        merge(recipe, tmp_path / "out.safetensors", folder=tmp_path)
    assert str(caught.value).splitlines() == [
        f"pool: {n}: {tmp_path / n}.st: the file cannot be opened: No such file or directory"
        for n in "xy"
    ]
    assert list(tmp_path.iterdir()) == [a]


def test_an_unknown_name(save: Save) -> None:
    (line,) = refuse("mean(a, bee)", save("a"), save("bea"), error=RecipeError)
    assert "bee" in line and "did you mean 'bea'" in line


def test_a_source_that_was_not_given(save: Save, tmp_path: Path) -> None:
    recipe = make_recipe("mean(a, b)", {"a": "a", "b": "b"})
    with open_checkpoint(save("a")) as a, pytest.raises(PreflightError) as caught:
        merge(recipe, tmp_path / "out", sources={"a": a})
    assert str(caught.value) == "pool: b: the mix reads it, but no open checkpoint was given"
    with pytest.raises(StockpotError):
        merge(make_recipe("mean(a, b)", {}), tmp_path / "out", sources={})


def test_a_marker_that_only_some_carry(save: Save, model: Model) -> None:
    marked = model("te", seed=1) | {"v_pred": torch.zeros(0).half()}
    (line,) = refuse("mean(a, b)", save("a", model("te")), save("b", marked))
    assert line == (
        "v_pred: b carry this marker and a do not: models that predict different things cannot be "
        "mixed; take one kind out of the mix"
    )


def test_schedules_that_disagree(save: Save, model: Model) -> None:
    one, other = (model("te") | {"betas": torch.full((1000,), v)} for v in (0.5, 0.25))
    (line,) = refuse("mean(a, b)", save("a", one), save("b", other))
    assert line == (
        "betas: a buffer is copied, never averaged, but a, b differ in it; "
        "name one source for it: `other: a` in the mix"
    )
    recipe_path = save("c", one).parent / "named.safetensors"
    recipe = make_recipe({"model": "mean(a, b)", "other": "b"}, {"a": "a.safetensors",
                         "b": "b.safetensors"})  # fmt: skip
    merge(recipe, recipe_path, folder=recipe_path.parent)
    with open_checkpoint(recipe_path) as source:
        assert source.read_bytes("betas") == other["betas"].numpy().tobytes()


def test_whole_numbers_that_disagree(save: Save) -> None:
    (line,) = refuse("mean(a, b)", save("a", {"n": torch.tensor([1])}),
                     save("b", {"n": torch.tensor([2])}))  # fmt: skip
    assert line.startswith("n: an integer is copied, never averaged, but a, b differ in it; name")


def test_a_component_asked_for_by_name_must_be_there(save: Save, model: Model) -> None:
    a, b = save("a", model("te")), save("b", model("te", seed=1))
    (line,) = refuse({"te": "mean(a, b)", "vae": "b"}, a, b)
    assert line.startswith(f"{b}: there is no vae in it (first key: first_stage_model.")
    assert "but the mix reads it; fill it from another model" in line


def test_several_problems_come_together(save: Save, model: Model) -> None:
    broken = model("te", seed=1) | {"v_pred": torch.zeros(0).half()}
    broken[NORM] = torch.zeros(65).half()
    del broken[FIRST]
    a, b = save("a", model("te")), save("b", broken)
    lines = refuse("mean(a, b)", a, b)
    assert [line.split(":")[0] for line in lines] == [str(b), "v_pred", str(b)]
    assert "the shape must be [64]" in lines[0]
    assert f"its te lacks {FIRST};" in lines[2]


def test_nothing_to_write(save: Save, model: Model) -> None:
    (line,) = refuse({"ema": "1*a"}, save("a", model("te")))
    assert line == "no tensor is left to write; check the recipe's mix"


@pytest.mark.parametrize("name", ["a.safetensors", "link.safetensors"])
def test_the_output_is_an_input(save: Save, tmp_path: Path, name: str) -> None:
    a, _ = save("a"), save("b", seed=1)
    (tmp_path / "link.safetensors").symlink_to(a)
    content = a.read_bytes()
    recipe = make_recipe("mean(a, b)", {"a": "a.safetensors", "b": "b.safetensors"})
    with pytest.raises(PreflightError) as caught:
        merge(recipe, tmp_path / name, folder=tmp_path, settings=Settings(overwrite=True))
    assert str(caught.value) == (
        f"{a} (pool: a): an input is never written to; choose another name for the output"
    )
    assert a.read_bytes() == content


def test_an_input_with_the_name_that_the_output_grows_under(save: Save, tmp_path: Path) -> None:
    a, b = save("a"), save("b", seed=1)
    grows = tmp_path / "out.safetensors.partial"
    b.rename(grows)
    content = grows.read_bytes()
    recipe = make_recipe("mean(a, b)", {"a": str(a), "b": str(grows)})
    with pytest.raises(PreflightError, match="an input is never written to"):
        merge(recipe, tmp_path / "out.safetensors")
    assert grows.read_bytes() == content


def test_a_shard_as_output(save: Save, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    shard = save("s/model")
    (tmp_path / "s" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"b.weight": "model.safetensors", "a.bias": "model.safetensors", '
        '"scalar": "model.safetensors"}}'
    )
    recipe = make_recipe("1*a", {"a": "s/model.safetensors.index.json"})
    with pytest.raises(PreflightError, match="an input is never written to"):
        merge(recipe, shard, folder=tmp_path, settings=Settings(overwrite=True))


def test_no_folder_and_an_existing_output(save: Save, tmp_path: Path) -> None:
    a = save("a")
    recipe = make_recipe("1*a", {"a": str(a)})
    with pytest.raises(PreflightError) as caught:
        merge(recipe, tmp_path / "no" / "out.safetensors")
    assert str(caught.value) == f"{tmp_path / 'no'}: the output's folder must exist; make it first"
    existing = save("old", seed=5)
    content = existing.read_bytes()
    with pytest.raises(OutputExistsError, match="old.safetensors: the file exists"):
        merge(recipe, existing)
    assert existing.read_bytes() == content


def test_a_disk_with_too_little_room(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("1*a", {"a": str(save("a"))})
    monkeypatch.setattr("stockpot.engine.output_place.free_bytes", lambda folder: 5000)
    with pytest.raises(PreflightError) as caught:
        merge(recipe, tmp_path / "out.safetensors")
    assert "out.safetensors: the output takes 6." in str(caught.value)
    assert str(caught.value).endswith(
        "kB, but the disk has room for 5 kB; free some room, or write to another disk"
    )
    assert not list(tmp_path.glob("out*"))


def test_too_little_memory(save: Save, tmp_path: Path) -> None:
    recipe = make_recipe("mean(a, b)", {"a": str(save("a")), "b": str(save("b", seed=1))})
    with pytest.raises(
        MemoryBudgetError,
        match=r"the plan needs at least 50\.\d MB for 2 models, but --memory allows 10 MB; allow",
    ):
        merge(recipe, tmp_path / "out", settings=Settings(memory=10_000_000))
    assert not (tmp_path / "out").exists()


def test_fewer_threads_where_the_budget_is_small(save: Save) -> None:
    recipe = make_recipe("mean(a, b)", {"a": str(save("a")), "b": str(save("b", seed=1))})
    with open_pool(recipe) as sources:
        plan = make_plan(recipe, sources)
    wide = take_chunks(plan, 1 << 30, 8)
    assert (wide.threads, wide.chunk_elements, wide.n_bytes) == (8, 1 << 18, 6 * 8 << 18)
    tight = take_chunks(plan, (48 << 20) + 40_000, 8)
    assert 1 <= tight.threads < 8
    assert tight.n_bytes <= 40_000
    torch_too = take_chunks(plan, 1 << 30, 8, 1000, compiled=False)
    assert torch_too.n_bytes == 8 * 1000 * (6 + 72)


@pytest.mark.parametrize(
    ("dtype", "error", "message"),
    [
        ("fp17", UnknownNameError, "unknown dtype 'fp17'; did you mean 'fp1"),
        ({"unit": "fp16"}, RecipeError, "unknown component 'unit'; did you mean 'unet'?"),
    ],
)
def test_unknown_types(
    save: Save, tmp_path: Path, dtype: object, error: type[Exception], message: str
) -> None:
    recipe = make_recipe("1*a", {"a": str(save("a"))})
    with pytest.raises(error) as caught:
        merge(recipe, tmp_path / "out", dtype=dtype)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert not isinstance(caught.value, LayoutError | OutputError)


def test_nan_is_named_by_file_key_and_element(save: Save, tmp_path: Path) -> None:
    spoilt = {"w": torch.ones(3000).half()}
    spoilt["w"][2345] = float("nan")
    a, b = save("a", {"w": torch.ones(3000).half()}), save("b", spoilt)
    for mix in ("mean(a, b)", "1*b"):
        recipe = make_recipe(mix, {"a": str(a), "b": str(b)})
        with pytest.raises(StockpotError) as caught:
            merge(recipe, tmp_path / "out", settings=Settings(chunk_elements=1024))
        assert str(caught.value) == (
            f"{b}: w: values must be finite, but element 2345 is NaN or infinite; the file is "
            "damaged: leave it out, or keep such values with --allow-nonfinite"
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == [a.name, b.name]


def test_a_result_that_does_not_fit(save: Save, tmp_path: Path) -> None:
    recipe = make_recipe("2*a - b", {
        "a": str(save("a", {"w": torch.full((2,), 60000.0).half()})),
        "b": str(save("b", {"w": torch.full((2,), 1.0).half()})),
    })  # fmt: skip
    with pytest.raises(StockpotError, match="w: a result is too large for F16 .* 65504.* --dtype"):
        merge(recipe, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    merge(recipe, tmp_path / "out", dtype="fp32")


def test_sources_are_read_by_the_names_of_the_pool(save: Save, tmp_path: Path) -> None:
    with open_checkpoint(save("a")) as a:
        sources: dict[str, Source] = {"x": a}
        plan = make_plan(make_recipe("1*x", {"x": "anything"}), sources)
        assert list(plan.sources) == ["x"]
        assert plan.read_bytes == plan.written_bytes == 2 * (70 * 30 + 70 + 1)
