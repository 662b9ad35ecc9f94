"""Every real recipe that the project knows, counted and judged."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from stockpot.errors import RecipeError
from stockpot.layouts import Cell, get_layout
from stockpot.recipes import Name, draw_graph, draw_shares, export_recipe, fold, lint, parse_recipe
from stockpot.recipes.importers import best_row, import_file, import_folder, recipe_order

# Models, steps, edges, unknown parents: counted by hand in the files.
COUNTS = {
    "recipes/recipe-10a.json": (10, 9, 18, 1),
    "recipes/recipe-209.json": (10, 9, 18, 0),
    "recipes/amp-AstolfoMix-24051501-29bac1a.mecha": (2, 2, 4, 0),
    "recipes/x3a-NIL-AK-25082901-3e3aea3.mecha": (4, 9, 18, 0),
    "recipes/x10a-AstolfoKarmix-25072401-3e3aea3.mecha": (11, 16, 39, 0),
    "recipes/x43-AstolfoMix-x21te0x30te1-e2e-240222-60d0764.mecha": (48, 93, 186, 0),
    "recipes/x72a-AstolfoMix-240421-feefbf4.mecha": (73, 76, 223, 0),
    "recipes/x101a-AstolfoMix-24050903-4edc67c.mecha": (102, 105, 310, 0),
    "autombw/02b-AstolfoMix-_01a_02a.recipe.txt": (2, 1, 2, 0),
    "autombw/03b-AstolfoMix-_03a_04a.recipe.txt": (2, 1, 2, 0),
    "autombw/06b-AstolfoMix-_09a_10a.recipe.txt": (2, 1, 2, 0),
    "autombw/12b-AstolfoMix-02b03b.recipe.txt": (2, 1, 2, 0),
    "autombw/201b-AstolfoMix-_202a_204a.recipe.txt": (2, 1, 2, 0),
    "autombw/210b-AstolfoMix-211209b.recipe.txt": (2, 1, 2, 0),
}
IN03 = Cell("unet", "IN03")


def shares(path: Path, layout: str) -> dict[str, dict[str, Fraction]]:
    """Shares by component of a recipe that has the same in all blocks of one."""
    folded = fold(import_file(path).recipe, get_layout(layout))
    return {row.cells[0].component: dict(row.coefficients) for row in folded.table()}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(data: Path, name: str) -> None:
    facts = import_file(data / name).facts
    print(f"{name}: {facts}")
    assert (facts.n_models, facts.n_steps, facts.n_edges, facts.n_holes) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_imports_survive_their_own_text_and_are_drawn(data: Path, name: str) -> None:
    recipe = import_file(data / name).recipe
    text = recipe.to_yaml()
    assert parse_recipe(text) == recipe
    assert parse_recipe(text).to_yaml() == text
    assert not recipe.outside()
    assert draw_graph(recipe).startswith("<svg")
    space: dict[str, object] = {}
    exec(export_recipe(recipe, "python"), space)
    assert space["recipe"] == recipe


def test_all_recipes_of_the_data_are_in_the_table(data: Path) -> None:
    files = {
        str(path.relative_to(data)).replace("\\", "/")
        for folder in ("recipes", "autombw")
        for path in (data / folder).iterdir()
        if path.suffix not in (".log", ".csv")
    }
    assert files == set(COUNTS)


def test_the_log_is_none(data: Path) -> None:
    with pytest.raises(RecipeError, match="looks like no recipe"):
        import_file(next((data / "recipes").glob("*.log")))


def test_10a_has_ten_leaves_and_one_of_them_is_a_hole(data: Path) -> None:
    imported = import_file(data / "recipes/recipe-10a.json")
    found = shares(data / "recipes/recipe-10a.json", "sd1")["unet"]
    assert len(found) == 10 and sum(found.values()) == 1
    assert all(0.0998 < value < 0.1002 for value in found.values())
    (hole,) = [name for name, entry in imported.recipe.pool.items() if entry.is_hole]
    assert hole == "unknown secondary of 04a-vcbp_mzpt_d8" and hole in found
    assert imported.facts.candidates == {hole: ("dreamshaper_8",)}
    assert "dreamshaper_8" not in found
    note = imported.recipe.pool[hole].note or ""
    assert note.startswith("inferred, not known: the only candidate is dreamshaper_8")
    assert imported.recipe.pool["Silicon29"].sha256 is not None
    assert imported.recipe.pool["Silicon29"].hash is None


def test_209_is_exactly_a_tenth_of_each(data: Path) -> None:
    found = shares(data / "recipes/recipe-209.json", "sd2")
    assert set(found["unet"].values()) == {Fraction(1, 10)} and len(found["unet"]) == 10
    assert found["te"] == found["vae"] == found["unet"]


def test_x43_is_a_mean_of_each_component_and_lint_says_so(data: Path) -> None:
    (path,) = (data / "recipes").glob("x43-*.mecha")
    found = shares(path, "sdxl")
    for component, n in {"unet": 44, "te0": 31, "te1": 22}.items():
        assert len(found[component]) == n
        assert all(abs(value - Fraction(1, n)) < Fraction(1, 10**12)
                   for value in found[component].values())  # fmt: skip
    assert found["vae"] == {"_x25-sd_xl_base_1.0": 1}
    (finding,) = [f for f in lint(import_file(path)) if f.code == "plain-mean"]
    assert "UNet of 44 models, te0 (CLIP-L) of 31 models, te1 (OpenCLIP-G) of 22" in finding.message
    assert finding.where.endswith("line 144") and "mean(" in finding.fix


@pytest.mark.parametrize(
    ("name", "elect", "function"),
    [("x72a", "count", "ties"), ("x101a", "count", "ties_dropout"), ("x10a", "magnitude", "dgmla"),
     ("x3a", "magnitude", "dgmla")],
)  # fmt: skip
def test_elections(data: Path, name: str, elect: str, function: str) -> None:
    (path,) = (data / "recipes").glob(f"{name}-*.mecha")
    imported = import_file(path)
    assert set(imported.facts.elections.values()) == {elect}
    words = {"count": "TIES-SOUP (count)", "magnitude": "TIES (magnitude)"}[elect]
    assert any(n.code == "election" and words in n.message for n in imported.notes)
    text = imported.recipe.to_yaml()
    assert f"{function}(" in text and f'elect="{elect}"' in text
    if name in ("x10a", "x3a"):  # words of `isotropic_overrided` that have no meaning here
        with pytest.raises(RecipeError, match="unknown option of `iso_z` 'arg1'"):
            fold(imported.recipe, get_layout("sdxl"))
    else:
        (call,) = fold(imported.recipe, get_layout("sdxl")).calls[-1:]
        assert call.function == "kept_mean" and len(call.models) > 70


def test_nothing_of_a_non_linear_call_is_lost(data: Path) -> None:
    (path,) = (data / "recipes").glob("x10a-*.mecha")
    recipe = import_file(path).recipe
    text = recipe.to_yaml()
    for part in ("p=0.1", "eps=-0.1", "rescale=0", "keep=1", "seed=250724", "maxiter=100",
                 "ftol=", "cos_eps_guard=", "eps_guard=", "z=0.8", 'arg1="false"',
                 'arg2="true"'):  # fmt: skip
        assert part in text, part
    # The VAE of one model over the rest of another is two keys of the mix.
    assert list(recipe.mix) == ["model", "vae"]
    assert recipe.mix["vae"] == Name("1ep-AstolfoXL")


def test_what_lint_sees_in_real_recipes(data: Path) -> None:
    def codes(name: str) -> dict[str, str]:
        (path,) = (data / "recipes").glob(f"{name}*")
        return {f.code: str(f) for f in lint(import_file(path))}

    found = codes("recipe-10a")
    assert {"rounded-ratio", "unknown-parent", "near-mean", "unused-input"} <= found.keys()
    assert "0.09986 to 0.10020" in found["near-mean"]
    assert "11 deltas are taken against 'x256c-" in codes("x10a")["base-not-base"]
    assert {"self-delta", "own-output", "order-dependence"} <= codes("x10a").keys()
    assert "stableDiffusionXL_v52" in codes("x101a")["duplicate-name"]
    assert "self-delta" in codes("x72a")
    assert "base-not-base" not in codes("x72a").keys() | codes("x101a").keys()


def test_a_table_has_the_numbers_of_the_text_beside_it(data: Path) -> None:
    tables = sorted((data / "autombw").glob("*.csv"))
    assert len(tables) == 6
    for path in tables:
        stem = path.name.split("-0-20")[0]
        text = import_file(data / "autombw" / f"{stem}.recipe.txt").recipe
        best = best_row(path.read_text(), str(path))
        assert [f"{float(w):.3g}" for w in recipe_order(best.weights)] == [
            f"{float(w):.3g}" for w in _numbers(text.mix["model"])
        ]
        alone = import_file(path)
        assert (alone.facts.n_holes, alone.facts.output) == (2, stem)


def _numbers(lerp: object) -> list[Fraction]:
    return [number.value for number in lerp.args[2].args[1].items]  # type: ignore[attr-defined]


def test_a_folder_of_searches_is_one_recipe_over_the_raw_models(data: Path) -> None:
    imported = import_folder(data / "autombw")
    assert imported.facts.output == "12b-AstolfoMix-02b03b"
    assert [name[:4].rstrip("-_") for name in imported.recipe.pool] == [
        "01-V",
        "_02",
        "_03a",
        "_04a",
    ]
    folded = fold(imported.recipe, get_layout("sd1"))
    assert all(sum(row.values()) == 1 for row in folded.rows.values())
    names = list(imported.recipe.pool)
    # IN03: 0.45 within the first pair, 0.5 within the second, 0.9 between them.
    tenth = Fraction(1, 10)
    assert dict(folded.rows[IN03]) == {
        names[0]: tenth * Fraction("0.55"), names[1]: tenth * Fraction("0.45"),
        names[2]: Fraction("0.45"), names[3]: Fraction("0.45"),
    }  # fmt: skip
    assert dict(folded.rows[Cell("te", "final")]) == {names[0]: 1}
    assert import_folder(data / "autombw", "210b").facts.n_steps == 1
    picture = draw_shares(folded, "12b")
    shown = [row for row in folded.table() if row.cells[0].component in ("unet", "te", "vae")]
    assert picture.count("<title>") == 4 * len(shown)
    page = Path(__file__).parents[3] / "docs" / "img" / "autombw-12b.svg"
    assert page.read_text(encoding="utf-8") == draw_shares(folded, imported.facts.output)


@pytest.mark.parametrize("name", ["recipe-10a.json", "recipe-209.json"])
def test_a1111_json_comes_back_as_it_was(data: Path, name: str) -> None:
    import json

    text = (data / "recipes" / name).read_text(encoding="utf-8")
    imported = import_file(data / "recipes" / name)
    for recipe in (imported.recipe, parse_recipe(imported.recipe.to_yaml())):
        again = export_recipe(recipe, "a1111")
        assert json.loads(again) == json.loads(text)
