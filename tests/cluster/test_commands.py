"""Searches and ``select`` whose pictures a crew draws: what comes out is what one process finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stockpot.cli.main import app


def run(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def place(make_place: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, a recipe with a hole, payloads."""
    mix = "mix:\n  model: lerp(a, b, search(0, 1, 0.05))\n"
    return make_place(tmp_path_factory.mktemp("place"), "abc", mix)


@pytest.fixture
def crew(imagined: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A crew in the place of Ray's: one worker, which is lost now and then."""
    made = imagined(1, losses=0.1, seed=7)
    made.n_workers = 1

    @contextmanager
    def crew_of(address: str | None, **_: Any) -> Iterator[Any]:
        yield None if address is None else made

    monkeypatch.setattr("stockpot.cli.tuning_crew.crew_of", crew_of)
    monkeypatch.setattr("stockpot.cli.selecting.crew_of", crew_of)
    return made


def test_a_search_finds_the_same_with_a_crew(
    place: Path, config: Path, tmp_path: Path, crew: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--score", "detail", "--optimiser", "random", "--trials", 3, "--finalists", 1]
    told = []
    monkeypatch.chdir(place)
    for name, more in (("here", []), ("there", ["--cluster"])):
        # Paths of one folder, which a worker in another one must understand.
        result = run("tune", "recipe.yaml", "--payloads", "payloads", "--config", config, *options,
                     "--study", tmp_path / f"{name}.db", "-o", tmp_path / f"{name}.yaml", "--json",
                     *more)  # fmt: skip
        found = json.loads(result.stdout)
        told.append(json.loads(json.dumps(found).replace(f"{name}.db", "study")))
        assert result.stderr.count("the search has ended: 3 candidates") == 1
    assert crew.n_values > 6 and crew.n_lost >= 1
    assert told[0] == told[1]
    texts = [(tmp_path / f"{name}.yaml").read_text() for name in ("here", "there")]
    assert texts[0] == texts[1]


def test_a_tree_of_searches_is_the_same_with_a_crew(
    place: Path, config: Path, tmp_path: Path, crew: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    options = ["--payloads", "payloads", "--config", config, "--score", "detail", "--optimiser",
               "random", "--space", "groups", "--trials", 2, "--finalists", 1,
               "--final-repeats", 1]  # fmt: skip
    told = []
    for name, more in (("here", []), ("there", ["--cluster"])):
        result = run("tune-tree", "a.safetensors", "b.safetensors", "c.safetensors", *options,
                     "--study", tmp_path / f"{name}.db", "-o", tmp_path / f"{name}.yaml", "--json",
                     *more)  # fmt: skip
        found = json.loads(result.stdout)
        for view in (found, *found["nodes"]):
            for word in ("seconds", "minutes", "minutes_left"):
                view.pop(word, None)
        told.append(json.loads(json.dumps(found).replace(f"{name}.db", "study")))
        assert result.stderr.count("node 1 of 2") == result.stderr.count("node 2 of 2") == 1
    assert crew.n_values > 12 and crew.n_lost >= 1
    assert told[0] == told[1]
    texts = [(tmp_path / f"{name}.yaml").read_text() for name in ("here", "there")]
    assert texts[0] == texts[1]


def test_a_selection_finds_the_same_with_a_crew(
    place: Path, config: Path, tmp_path: Path, crew: Any
) -> None:
    options = ["--payloads", place / "payloads", "--score", "detail", "--config", config,
               "--pictures", 0, "--no-core"]  # fmt: skip
    for name, more in (("here", []), ("there", ["--cluster"])):
        run("select", place / "a.safetensors", place / "b.safetensors", *options, *more,
            "-o", tmp_path / name)  # fmt: skip
    assert crew.n_values >= 4

    def marks(name: str) -> dict[tuple[str, str], float]:
        lines = (tmp_path / name / "evidence.jsonl").read_text().splitlines()[1:]
        return {
            (one["key"], one["task"]): one["scores"]["detail"] for one in map(json.loads, lines)
        }

    # Pictures that are drawn together are a hair different; workers draw one by one.
    assert marks("there") == pytest.approx(marks("here"), rel=1e-4)
    recipes = [(tmp_path / name / "recipe.yaml").read_text() for name in ("here", "there")]
    assert recipes[0] == recipes[1]
