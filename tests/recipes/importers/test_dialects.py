"""Each format's own ways of saying things, in small texts written for these tests."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from stockpot.errors import RecipeError
from stockpot.layouts import Cell, get_layout
from stockpot.recipes import export_recipe, fold, parse_recipe, print_expression
from stockpot.recipes.importers import (
    IMPORTERS,
    Imported,
    detect_format,
    import_a1111,
    import_autombw,
    import_autombw_table,
    import_file,
    import_folder,
    import_mecha,
    import_metadata,
    import_text,
    model_key,
)

A, B, C = "a" * 64, "b" * 64, "c" * 64
IN00 = Cell("unet", "IN00")
LINE = ",".join(["0.5"] * 25 + ["0.25", "0.75"])


def webui(first: str | None, second: str | None, **other: Any) -> dict[str, Any]:
    """A record as A1111 writes it."""
    return {
        "type": "webui", "primary_model_hash": first, "secondary_model_hash": second,
        "tertiary_model_hash": None, "interp_method": "Weighted sum", "multiplier": 0.25,
        "save_as_half": True, "custom_name": "mix", "bake_in_vae": "None", **other,
    }  # fmt: skip


def leaf(name: str, recipe: dict[str, Any] | None = None) -> dict[str, Any]:
    """An ancestor's entry."""
    return {"name": name, "legacy_hash": "25d4f007", "sd_merge_recipe": recipe}


def a1111(top: dict[str, Any], models: dict[str, Any], **other: Any) -> Imported:
    """Import a header with the two as strings, and check that it comes back."""
    metadata = {"sd_merge_recipe": json.dumps(top), "sd_merge_models": json.dumps(models), **other}
    imported = import_metadata(metadata)
    again = json.loads(export_recipe(parse_recipe(imported.recipe.to_yaml()), "a1111"))
    assert again == {"__metadata__": {"sd_merge_recipe": top, "sd_merge_models": models, **other}}
    assert import_a1111(json.dumps(again), "<metadata>") == imported
    return imported


def unet(imported: Imported, layout: str = "sd1") -> dict[str, Fraction]:
    """Shares of the first block of the UNet."""
    return dict(fold(imported.recipe, get_layout(layout)).rows[IN00])


def test_a1111_names_with_backslashes_or_without_extension() -> None:
    imported = a1111(webui(A, B), {A: leaf("sub\\\\dir\\\\x v1.5"), B: leaf("y.ckpt")}, format="pt")
    assert {n: e.file for n, e in imported.recipe.pool.items()} == {
        "x v1.5": "sub/dir/x v1.5", "y": "y.ckpt",
    }  # fmt: skip
    assert unet(imported) == {"x v1.5": Fraction(3, 4), "y": Fraction(1, 4)}
    assert imported.recipe.save.file == "mix.safetensors"


def test_a1111_records_keep_what_expressions_do_not_say() -> None:
    top = webui(A, B, multiplier=1, save_as_half=False, config_source=2)
    models = {A: {"name": "x.ckpt", "legacy_hash": None}, B: leaf("y.ckpt"), C: leaf("z.ckpt")}
    imported = a1111(top, models, **{"modelspec.title": "another's"})
    assert unet(imported) == {"y": 1}
    assert [n.message for n in imported.notes if n.code == "unread-record"]


def test_a1111_null_parents_are_holes_with_candidates() -> None:
    imported = a1111(webui(None, None), {A: leaf("x.ckpt"), B: leaf("y.ckpt")})
    assert imported.facts.n_holes == 2
    assert imported.facts.candidates["unknown primary of mix"] == ("x", "y")
    assert "one of 2 candidates" in str(imported.recipe.pool["unknown primary of mix"].note)
    assert imported.recipe.pool["unknown primary of mix"].is_hole


def test_a1111_a_hash_without_record_is_a_model_known_by_its_hash() -> None:
    imported = a1111(webui(A, B), {A: leaf("x.ckpt")})
    assert imported.recipe.pool["model bbbbbbbbbb"].sha256 == B
    assert any(n.code == "missing-parent" for n in imported.notes)


def test_a1111_methods() -> None:
    models = {A: leaf("x.ckpt"), B: leaf("y.ckpt"), C: leaf("z.ckpt")}
    add = webui(A, B, tertiary_model_hash=C, interp_method="Add difference", multiplier=1.0)
    assert unet(a1111(add, models)) == {"x": 1, "y": 1, "z": -1}
    none = webui(A, None, interp_method="No interpolation", bake_in_vae="v.pt")
    imported = a1111(none, models)
    rows = fold(imported.recipe, get_layout("sd1")).rows
    assert dict(rows[IN00]) == {"x": 1} and dict(rows[Cell("vae", "encoder")]) == {"v": 1}
    odd = a1111(webui(A, B, interp_method="Cosine wave"), models)
    assert "foreign(" in odd.recipe.to_yaml() and "a1111: Cosine wave" in odd.recipe.to_yaml()


def test_a1111_entries_of_one_name_are_two_models() -> None:
    imported = a1111(webui(A, B), {A: leaf("mean.ckpt"), B: leaf("mean.ckpt")})
    assert list(imported.recipe.pool) == ["mean (2)", "mean (3)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sd_merge_models": {}}', "there is no `sd_merge_recipe`"),
        ('{"sd_merge_recipe": []}', "no `sd_merge_recipe`|must be a mapping"),
        ('{"sd_merge_recipe": "{"}', "this is no JSON"),
        (json.dumps({"sd_merge_recipe": webui(A, B), "sd_merge_models": {A: 1}}), "be a mapping"),
        (json.dumps({"sd_merge_recipe": webui(A, B, multiplier="x")}), "must be a number"),
        (json.dumps({"sd_merge_recipe": webui(A, B, multiplier=None)}), "must be a number"),
        (
            json.dumps({"sd_merge_recipe": webui(A, A),
                        "sd_merge_models": {A: leaf("x", webui(B, B)), B: leaf("y", webui(A, A))}}),
            "may not go in a circle",
        ),
    ],
)  # fmt: skip
def test_a1111_nonsense_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        import_a1111(text)


def merger(**other: Any) -> dict[str, Any]:
    """A record as supermerger writes it."""
    return {"type": "sd-webui-supermerger", "weights_alpha": None, "weights_beta": None,
            "model_a": A, "model_b": B, "model_c": None, "base_alpha": 0.5, "base_beta": 0.25,
            "mode": "Weight sum", "mbw": False, "elemental_merge": [], "calcmode": "normal",
            **other}  # fmt: skip


MODELS = {A: leaf("x.ckpt"), B: leaf("y.ckpt"), C: leaf("z.ckpt")}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (merger(), {"x": "1/2", "y": "1/2"}),
        (merger(weights_alpha=[0.25] * 25, mbw=True), {"x": "3/4", "y": "1/4"}),
        (merger(weights_alpha=",".join(["0"] + ["0.75"] * 25)), {"x": "1/4", "y": "3/4"}),
        (merger(mode="Add difference", model_c=C), {"x": "1", "y": "1/2", "z": "-1/2"}),
        (merger(mode="Triple sum", model_c=C), {"x": "1/4", "y": "1/2", "z": "1/4"}),
        (merger(mode="sum Twice", model_c=C), {"x": "3/8", "y": "3/8", "z": "1/4"}),
        (merger(model_a="x.ckpt [aaaaaaaaaa]"), {"x": "1/2", "y": "1/2"}),
        (merger(model_b="elsewhere"), {"x": "1/2", "elsewhere": "1/2"}),
    ],
)  # fmt: skip
def test_supermerger_entries(record: dict[str, Any], expected: dict[str, str]) -> None:
    found = unet(a1111(record, MODELS))
    assert found == {name: Fraction(value) for name, value in expected.items()}


def test_supermerger_xl_and_what_has_no_name_here() -> None:
    large = a1111(merger(weights_alpha=[0.25] * 20), MODELS)
    assert large.facts.layout == "sdxl"
    assert unet(large, "sdxl") == {"x": Fraction(3, 4), "y": Fraction(1, 4)}
    kept = a1111(merger(calcmode="trainDifference", model_c=C), MODELS)
    assert "train_difference(x, y, z, 0.5)" in kept.recipe.to_yaml()
    odd = a1111(merger(elemental_merge=["IN01:attn:0.5"]), MODELS).recipe.to_yaml()
    assert "supermerger: weight sum, normal" in odd and "IN01:attn:0.5" in odd
    with pytest.raises(RecipeError, match="25, 26, 19 or 20 numbers, but got 7"):
        a1111(merger(weights_alpha=[0.25] * 7), MODELS)


def test_mecha_early_2024() -> None:
    imported = import_mecha(
        'model "raw/α base.safetensors"\nmodel "raw\\b.safetensors"\n'
        "dict l14_txt_class_q=0.0 l14_txt_default=0.0 g14_txt_class_q=0.5 sdxl_unet_class_x=1.0\n"
        'call "weighted_sum" &0 &1 alpha=&2',
        "x.mecha",
    )
    assert imported.facts.dialect.startswith("mecha (a:") and imported.facts.layout == "sdxl"
    assert list(imported.recipe.pool) == ["α base", "b"]
    assert imported.recipe.pool["b"].file == "raw/b.safetensors"
    rows = fold(imported.recipe, get_layout("sdxl")).rows
    assert dict(rows[IN00]) == {"b": 1}
    assert dict(rows[Cell("te0", "final")]) == dict(rows[Cell("vae", "encoder")]) == {"α base": 1}
    assert dict(rows[Cell("te1", "final")]) == {"α base": Fraction(1, 2), "b": Fraction(1, 2)}


def test_mecha_weights_that_differ_within_a_component_are_kept_in_words() -> None:
    imported = import_mecha(
        'model "a"\nmodel "b"\ndict sdxl_unet_class_q=0.0 sdxl_unet_class_k=1.0\n'
        'call "weighted_sum" &0 &1 alpha=&2'
    )
    text = imported.recipe.to_yaml()
    assert 'foreign("sd-mecha: weighted_sum", a, b, alpha=' in text
    assert "sdxl_unet_class_k=1" in text


HEAD = 'model "base" "sdxl" "base"\nmodel "a" "sdxl" "base"\nmodel "b" "sdxl" "base"\n'
DELTAS = 'merge "subtract" &1 &0\nmerge "subtract" &2 &0\n'


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('merge "ties_sum" &3 &4 k=0.5 vote_sgn=0.0',
         'ties(base, a, b, elect="magnitude", keep=0.5)'),
        ('merge "ties_sum" &3 &4 k=0.5 vote_sgn=1.0',
         'ties(base, a, b, elect="count", keep=0.5)'),
        (
            'merge "ties_sum_with_dropout" &3 &4 probability=0.1 no_rescale=1.0 k=1.0 vote_sgn=1.0 '
            "seed=7 apply_median=1.0 della_eps=0.0",
            'tgmd(base, a, b, elect="count", keep=1, p=0.1, rescale=0, seed=7)',
        ),
        ('merge "model_stock_for_tensor" &3 &4 cos_eps=1e-06',
         "model_stock(base, a, b, cos_eps=0.000001)"),
        ('merge "geometric_median" &3 &4 maxiter=100', "geometric_median(a, b, maxiter=100)"),
    ],
)  # fmt: skip
def test_mecha_with_types(lines: str, expected: str) -> None:
    text = HEAD + DELTAS + lines + '\nmerge "add_difference" &0 &5 alpha=0.5'
    imported = import_mecha(text)
    assert imported.facts.dialect.startswith("mecha (b:")
    (step,) = imported.recipe.let.values()
    assert print_expression(step) == expected
    assert 'add_difference(base, "step 5", base, 0.5)' in imported.recipe.to_yaml()


def test_mecha_unknown_methods_keep_all_arguments() -> None:
    line = 'merge "magic" &0 &1 0.3 true "x y" alpha=2 β=1 other=&2'
    imported = import_mecha(HEAD + line)
    text = print_expression(imported.recipe.mix["model"])
    assert text == (
        'foreign("sd-mecha: magic", base, a, b, alpha=2, arg3=0.3, arg4="true", arg5="x y", '
        'other="argument 3", β=1)'
    )
    assert parse_recipe(imported.recipe.to_yaml()) == imported.recipe
    assert any(n.code == "unknown-method" for n in imported.notes)


def test_mecha_with_a_version() -> None:
    imported = import_mecha(
        'version 0.1.0\nmodel "raw\\\\a.safetensors" model_config="sdxl-sgm" merge_space="weight"\n'
        'model "raw\\\\b.safetensors" model_config="sdxl-sgm" merge_space="weight"\n'
        'merge "pick_component" &0 "vae"\nmerge "weighted_sum" &0 &1 0.25\nmerge "fallback" &2 &3'
    )
    assert imported.facts.dialect.startswith("mecha (c:")
    rows = fold(imported.recipe, get_layout("sdxl")).rows
    assert dict(rows[IN00]) == {"a": Fraction(3, 4), "b": Fraction(1, 4)}
    assert dict(rows[Cell("vae", "encoder")]) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model "a"\ncall "weighted_sum" &0 &1', "&1 is not a line before this one"),
        ('model "a"\ncall "weighted_sum" &0 &0 alpha=x', "'x' is not a number"),
        ('model "a"\nmodel "b', "this cannot be read"),
        ('model "a"\nimport os', "a line starts with model"),
        ('model "a"\ncall "x" &0 t=1 t=2', "`t` comes twice"),
        ("model x", "needs the path of a file"),
        ("dict a=1", "the last line must be a model"),
    ],
)
def test_mecha_nonsense_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        import_mecha(text, "x.mecha")
    assert "x.mecha" in str(caught.value)


def test_autombw_text() -> None:
    text = f"modelA=E:\\m\\_01a-x.safetensors\nmodelB=y.ckpt\nposition_id_fix=z\n{LINE}\n\n[0] log"
    imported = import_autombw(text, "some/07b-mix.recipe.txt")
    assert imported.facts.output == "07b-mix"
    assert imported.recipe.pool["_01a-x"].file == "_01a-x.safetensors"
    rows = fold(imported.recipe, get_layout("sd1")).rows
    assert rows[Cell("unet", "out")]["y"] == Fraction(1, 4)
    assert rows[Cell("unet", "time_embed")]["y"] == Fraction(3, 4)
    for wrong, message in [
        (text.replace("modelA", "modelX"), "must have `modelA=`"),
        ("modelA=a\nmodelB=b\n0.5,0.5", "a line of 27 numbers"),
        (text + "\n" + LINE.replace("0.75", "1"), "2 different lines"),
        (text.replace("0.75", "0.7.5"), "number"),
    ]:
        with pytest.raises(RecipeError, match=message):
            import_autombw(wrong)


def test_autombw_table_takes_the_best_row() -> None:
    head = ",".join(map(str, range(27))) + ",score,eval_times"
    rows = [",".join([w] * 27) + f",{score},1" for w, score in [("0.1", 1), ("0.2", 3), ("0.3", 2)]]
    imported = import_autombw_table("\n".join([head, *rows]), "9b-x-0-2023-11-08-12-40AM-47.csv")
    assert unet(imported) == {"A": Fraction(4, 5), "B": Fraction(1, 5)}
    assert imported.facts.output == "9b-x"
    for wrong in (head, "0,1,2,score\n1,1,1,1", head + "\n" + ",".join(["x"] * 28)):
        with pytest.raises(RecipeError):
            import_autombw_table(wrong)


def test_list_of_files() -> None:
    imported = import_text('# mine\n"C:\\x\\a.safetensors"\nsub/b.ckpt\r\nsub/b.ckpt\n')
    assert imported.recipe.pool["a"].file == "a.safetensors"
    assert unet(imported) == {"a": Fraction(1, 3), "b": Fraction(2, 3)}
    assert [n.code for n in imported.notes] == ["duplicate-file"]


def test_formats_are_told_apart_by_content() -> None:
    texts = {
        "a1111": json.dumps({"__metadata__": {"sd_merge_recipe": {}}}),
        "autombw": "modelA=x", "autombw-table": "0,1,2,3,score", "mecha": "version 0.1.0\n",
        "list": "a.ckpt", "stockpot": "# mine\nstockpot: 1",
    }  # fmt: skip
    assert {name: detect_format(text) for name, text in texts.items()} == {n: n for n in IMPORTERS}
    with pytest.raises(RecipeError, match="looks like no recipe"):
        detect_format("to be, or not to be")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(
        f"modelA=a.ckpt\nmodelB=b.ckpt\n{LINE}\n".encode() + b"\x80\x93"
    )
    assert import_file(tmp_path / "log.txt").notes[0].code == "encoding"
    (tmp_path / "big.txt").write_bytes(b"a" * (5 << 20))
    with pytest.raises(RecipeError, match="4194304 bytes"):
        import_file(tmp_path / "big.txt")


def test_model_keys() -> None:
    assert model_key("01-x.safetensors") == model_key("_01a-x.ckpt") == "_01a-x"
    assert model_key("E:\\m\\12b-y") == "12b-y"
    assert model_key("10-x") != model_key("_10a-x")


def test_recipes_are_reached_by_name_index_and_hash(tmp_path: Path) -> None:
    def text(a: str, b: str, o: str) -> str:
        return f"modelA={a}.safetensors\nmodelB={b}.safetensors\nmodelO={o}\n{LINE}"

    (tmp_path / "low.txt").write_text(text("01-r", "_02a-s", "02b-low"))
    (tmp_path / "up.txt").write_text(text("02b", "_01a-r", "03b-up"))
    joined = import_folder(tmp_path)
    assert joined.facts.output == "03b-up"
    assert list(joined.recipe.pool) == ["01-r", "_02a-s"]
    assert unet(joined) == {"01-r": Fraction(3, 4), "_02a-s": Fraction(1, 4)}
    (tmp_path / "again.txt").write_text(text("x", "y", "03b-up"))
    with pytest.raises(RecipeError, match="two recipes make '03b-up'"):
        import_folder(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    inner = {A: leaf("x.ckpt"), B: leaf("y.ckpt"), C: leaf("xy.ckpt", webui(A, B))}
    first = {"sd_merge_recipe": webui(C, A, custom_name="one"), "sd_merge_models": inner}
    second = {"sd_merge_recipe": webui(C, B, custom_name="two"),
              "sd_merge_models": {B: leaf("y.ckpt"), C: leaf("renamed.ckpt")}}  # fmt: skip
    (tmp_path / "1.json").write_text(json.dumps(first))
    (tmp_path / "2.json").write_text(json.dumps(second))
    two = import_folder(tmp_path, "two")
    assert unet(two) == {"x": Fraction(9, 16), "y": Fraction(7, 16)}


def test_a_folder_that_goes_in_a_circle_is_refused(tmp_path: Path) -> None:
    for a, o in (("x", "y"), ("y", "x")):
        (tmp_path / f"{o}.txt").write_text(f"modelA={a}\nmodelB=z\nmodelO={o}\n{LINE}")
    with pytest.raises(RecipeError, match="circle"):
        import_folder(tmp_path)
