"""``stockpot tune-tree``, on three small models and a scorer without weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stockpot.checkpoints import open_checkpoint
from stockpot.cli.main import app
from stockpot.errors import LayoutError, OutputExistsError, StudyError, UnknownNameError
from stockpot.recipes import parse_recipe, read_recipe
from stockpot.tune import find_holes


def run(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def place(make_place: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models and payloads."""
    return make_place(tmp_path_factory.mktemp("trees"), "abc")


@pytest.fixture(scope="module")
def options(place: Path, config: Path) -> list[object]:
    """What every call needs."""
    return ["--payloads", place / "payloads", "--score", "detail", "--optimiser", "random",
            "--config", config, "--space", "groups", "--trials", 1, "--finalists", 1,
            "--final-repeats", 1]  # fmt: skip


@pytest.fixture(scope="module")
def files(place: Path) -> list[object]:
    return [word for name in "abc" for word in ("--pool", place / f"{name}.safetensors")]


@pytest.fixture(scope="module")
def study(place: Path, options: list[object], files: list[object]) -> Path:
    """A file with two trees that have ended, with a recipe and a merge of each."""
    path = place / "study.db"
    for order in ("parallel", "sequential"):
        result = run("tune-tree", *files, *options, "--order", order, "--study", path,
                     "-o", place / f"{order}.yaml",
                     "--merge", place / f"{order}.safetensors")  # fmt: skip
        assert result.exit_code == 0, result.output
        assert f"{order} tree: better than the uniform mix: " in result.stdout
        assert "node 2 of 2" in result.stderr
    return path


def test_the_tree_is_written_and_merged_with_what_it_knows(place: Path, study: Path) -> None:
    for order in ("parallel", "sequential"):
        recipe = read_recipe(place / f"{order}.yaml")
        assert not find_holes(recipe) and len(recipe.pool) == 3
        assert recipe.origin is not None
        evidence = json.loads(recipe.origin.records["study"])
        assert evidence["tree"] == order and set(evidence["nodes"]) == {"node1", "node2"}
        with open_checkpoint(place / f"{order}.safetensors") as source:
            assert json.loads(source.metadata["stockpot.study"]) == evidence
        again = run("merge", place / f"{order}.yaml", "-o", place / f"{order}-2.safetensors")
        assert again.exit_code == 0
        both = [place / f"{order}{end}.safetensors" for end in ("", "-2")]
        assert both[0].read_bytes() == both[1].read_bytes()


def test_the_same_command_draws_nothing_more(
    place: Path, options: list[object], files: list[object], study: Path
) -> None:
    before = json.loads(run("tune", "status", study, "--json").stdout)
    result = run("tune-tree", *files, *options, "--study", study, "--json")
    after = json.loads(result.stdout)
    assert after["pictures"] == before["trees"][0]["pictures"]
    assert "trial" not in result.stderr
    # The first one was compared again, now that there is another tree.
    names = [one["name"] for one in after["result"]["standings"]]
    assert {"parallel tree", "sequential tree", "uniform mix", "a alone"} <= set(names)
    assert "sequential tree" in after["result"]["against"]


def test_status_and_page(study: Path, tmp_path: Path) -> None:
    text = run("tune", "status", study).stdout
    assert "parallel: 2 of 2 nodes decided" in text and "sequential: 2 of 2" in text
    trees = json.loads(run("tune", "status", study, "--json").stdout)["trees"]
    assert [tree["tree"] for tree in trees] == ["parallel", "sequential"]
    assert [node["parents"] for node in trees[0]["nodes"]] == [["a", "b"], ["c", "node1"]]
    assert all(node["decided"] and node["trials"] >= 4 for tree in trees for node in tree["nodes"])
    assert not find_holes(parse_recipe(trees[0]["nodes"][0]["recipe"]))
    result = run("tune", "report", study, "-o", tmp_path / "page")
    assert result.exit_code == 0
    html = (tmp_path / "page" / "tuning.html").read_text(encoding="utf-8")
    for text in ("parallel tree", "uniform mix", "What could not be", "data:image/png", "node2"):
        assert text in html
    assert (tmp_path / "page" / "nodes" / "sequential-2" / "tuning.html").exists()
    with pytest.raises(OutputExistsError):
        run("tune", "report", study, "-o", tmp_path / "page")


def test_a_plan_of_ones_own(
    place: Path, options: list[object], files: list[object], tmp_path: Path
) -> None:
    told = run("tune-tree", *files, *options, "--study", tmp_path / "s.db", "--dry-run")
    plan = parse_recipe(told.stdout)
    assert len(find_holes(plan)) == 2 * 26 and not (tmp_path / "s.db").exists()
    (tmp_path / "mine.yaml").write_text(
        f"stockpot: 1\npool:\n  a: {place / 'a.safetensors'}\n  b: {place / 'b.safetensors'}\n"
        "  c: elsewhere.safetensors\n"
        "let:\n  uniform: mean(b, c)\n  second: lerp(uniform, a, search(0, 1))\n"
        "mix: {unet: second, te: a, vae: b}\n"
    )
    words = ["tune-tree", "--plan", tmp_path / "mine.yaml", *options, "--study", tmp_path / "s.db"]
    with pytest.raises(StudyError, match="no model of this name"):
        run(*words, "--pool", f"d={place / 'c.safetensors'}")
    result = run(*words, "--pool", f"c={place / 'c.safetensors'}", "-o", tmp_path / "best.yaml")
    assert result.exit_code == 0
    status = json.loads(run("tune", "status", tmp_path / "s.db", "--json").stdout)
    (tree,) = status["trees"]
    assert tree["tree"] == "mine" and tree["nodes"][0]["parents"] == ["uniform", "a"]
    recipe = read_recipe(tmp_path / "best.yaml")
    assert str(recipe.mix["te"]) == "a" and str(recipe.mix["vae"]) == "b"
    # Only the UNet moves, so its shares have AutoMBW's 27 numbers.
    assert len(find_holes(parse_recipe(tree["plan"]))) == 27


def test_a_tree_that_cannot_be_drawn_is_told_before_there_is_a_study(
    place: Path, options: list[object], tmp_path: Path
) -> None:
    plan = place / "no-te.yaml"
    pool = ", ".join(f"{name}: {name}.safetensors" for name in "abc")
    plan.write_text(f"stockpot: 1\npool: {{{pool}}}\nlet:\n  ab: lerp(a, b, search(0, 1))\n"
                    "mix:\n  unet: mean(ab, c)\n  vae: a\n")  # fmt: skip
    path = tmp_path / "s.db"
    with pytest.raises(LayoutError, match=r"the mix: the checkpoint has no text encoder"):
        run("tune-tree", "--plan", plan, *options, "--study", path)
    assert not path.exists()
    plan.write_text(plan.read_text() + "  te: a\n")
    best = tmp_path / "best.yaml"
    assert run("tune-tree", "--plan", plan, *options, "--study", path, "-o", best).exit_code == 0
    # The plan's paths start where it lies, and the recipe's lead there from anywhere.
    assert read_recipe(best).pool["a"].file == str(place / "a.safetensors")


def test_what_cannot_be_is_told_first(
    place: Path, options: list[object], files: list[object], study: Path, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match="seed"):
        run("tune-tree", *files, *options, "--study", study, "--seed", 7)
    with pytest.raises(StudyError, match="plan"):
        run("tune-tree", *files[:4], *options, "--study", study)
    with pytest.raises(OutputExistsError):
        run("tune-tree", *files, *options, "--study", study, "-o", place / "parallel.yaml")
    with pytest.raises(UnknownNameError, match="order"):
        run("tune-tree", *files, *options, "--study", study, "--order", "sideways")
    with pytest.raises(UnknownNameError, match="profile"):
        run("tune-tree", *files, *options, "--study", study, "--blocks", "sideways")
    plan = ["--plan", place / "parallel.yaml"]
    assert run("tune-tree", *plan, *options, "--study", study, "--order", "parallel").exit_code == 2
    assert run("tune-tree", *files, *options, "--study", study, "--step", "2").exit_code == 2
    assert run("tune-tree", *files, *options, "--study", study, "--trials", 0).exit_code == 2
    assert run("tune-tree", *files, *options, "--study", study, "--name", "../x").exit_code == 2
