"""Each study in a world whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from stockpot.errors import RequestError, UnknownNameError
from stockpot.layouts import Cell, get_layout
from stockpot.recipes import fold, make_recipe
from stockpot.studies import STUDIES, Answer, Setting, find_studies, plain_data
from stockpot.studies.assembling import assemble, chain, elements_apart, expression, tree
from stockpot.tune import CallableExaminer, Mark

Fresh = Callable[..., Setting]


def answer(name: str, setting: Setting) -> tuple[Answer, dict[str, Any]]:
    """Run a study; its numbers as JSON gives them back. Cost is an upper bound."""
    study = STUDIES[name]
    assert study.missing(setting) == ""
    before = setting.gallery.n_drawn
    found = study.run(setting)
    assert setting.gallery.n_drawn - before <= study.cost(setting)
    assert found.words and all(line.endswith(".") for line in found.words)
    return found, json.loads(json.dumps(plain_data(found.data), allow_nan=False))


def test_the_table_is_found_by_name_and_letter() -> None:
    assert find_studies(["all"]) == tuple(STUDIES.values())
    assert find_studies(["b", "distance"]) == (STUDIES["distance"], STUDIES["associative"])
    letters = [study.letter for study in STUDIES.values()]
    assert letters == sorted(set(letters))
    with pytest.raises(UnknownNameError, match="tarot"):
        find_studies(["tarot"])


def test_settings_know_who_is_mixed(setting: Setting) -> None:
    assert setting.models == ("style-outline", "style-glossy", "content-warm", "te-trained")
    with pytest.raises(RequestError, match="nobody"):
        replace(setting, base="nobody")


def test_distance_is_found_where_pictures_are_projections_of_weights(setting: Setting) -> None:
    found, data = answer("distance", setting)
    assert found.words[0].startswith("Yes")
    (first,) = [
        one for one in data["tests"] if (one["weights"], one["pictures"]) == ("whole", "MSE")
    ]
    assert first["spearman"] > 0.85 and first["p"] < 0.05
    # The matrices themselves: squared distances, up to gain, pixels and the projection.
    weights, pictures = np.array(data["weights"]["whole"]), np.array(data["pictures"]["MSE"])
    upper = np.triu_indices(len(weights), 1)
    ratio = np.sqrt(pictures[upper]) / weights[upper]
    assert ratio.std() / ratio.mean() < 0.25


def number_of(recipe: Any) -> int:
    """By names alone: folders of tests are called differently in each run."""
    return crc32(" ".join(f"{part}: {made}" for part, made in sorted(recipe.mix.items())).encode())


def test_distance_is_not_found_in_pictures_of_chance(setting: Setting, fresh: Fresh) -> None:
    def chance(recipe: Any, task: Any) -> Mark:
        rng = np.random.default_rng([number_of(recipe), task.request.seed])
        picture = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        return Mark(task.name, {"near": 0.0}, {}, 0.0, picture)

    own = fresh()
    own.gallery._opening = lambda made: CallableExaminer(chance)
    found, data = answer("distance", own)
    assert found.words[0].startswith("Cannot tell")
    assert all(one["p_holm"] > 0.05 for one in data["tests"])


def test_orders_of_merging() -> None:
    assert chain("abcd") == ((("a", "b"), "c"), "d")
    assert tree("abcde") == ((("a", "b"), "c"), ("d", "e"))
    for order in (chain("abcde"), tree("abcde")):
        assert _shares(order) == {name: Fraction(1, 5) for name in "abcde"}


def _shares(order: Any) -> dict[str, Fraction]:
    """What each model weighs, exactly."""
    table = fold(
        make_recipe(expression(order), {name: name for name in "abcde"}), get_layout("sd1")
    )
    return dict(table.rows[Cell("vae", "decoder")].items())


def test_merging_is_associative_until_it_is_rounded(setting: Setting) -> None:
    found, data = answer("associative", setting)
    exact = [one for one in data["ways"] if one["between"] is None]
    assert len(exact) == 2
    assert all(one["elements_that_differ"] == 0 and one["mse"] == 0 for one in exact)
    assert found.words[0].startswith("Yes where nothing is rounded")
    by = {one["between"]: one for one in data["ways"] if one["order"] == "chain"}
    assert 0 < by["fp16"]["elements_that_differ"] < by["bf16"]["elements_that_differ"]
    assert 0 < by["fp16"]["distance"] < by["bf16"]["distance"] < data["drop_one"]["distance"]


def test_rounding_in_between_is_what_a_chain_of_files_does(setting: Setting) -> None:
    a, b, c = setting.models[:3]
    made = assemble(setting, chain((a, b, c)), "fp16")
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    x, y, z = (np.frombuffer(setting.sources[name].read_bytes(key), np.float16).astype(np.float64)
               for name in (a, b, c))  # fmt: skip
    between = ((x + y) / 2).astype(np.float16).astype(np.float64)
    wanted = (between * 2 / 3 + z / 3).astype(np.float16)
    got = np.frombuffer(made.read_bytes(key), np.float16)
    # Thirds of doubles can fall on the other side of a tie; nothing else may differ.
    assert (got != wanted).mean() < 1e-3
    assert elements_apart(made, made) == 0


def test_a_growing_mix_converges_as_averages_do(setting: Setting) -> None:
    found, data = answer("convergence", setting)
    assert data["n_mixes"] == 15 and data["n_orders"] == 200
    assert data["exponent"]["value"] == pytest.approx(1, abs=0.15)
    assert data["to_end"][-1] == 0
    assert 0 <= data["slower"] <= 1
    assert "as any other order does" in found.words[0]


def test_fewer_mixes_follow_fewer_orders(setting: Setting) -> None:
    own = replace(setting, n_mixes=8)
    found, data = answer("convergence", own)
    assert data["n_mixes"] <= 8 and 1 <= data["n_orders"] < 40
    assert "too few" in found.words[0]


def test_a_median_survives_what_breaks_a_mean(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stockpot.studies import breakdown

    few = {name: breakdown._METHODS[name] for name in ("mean", "median", "ties")}
    monkeypatch.setattr(breakdown, "_METHODS", few)
    own = fresh()
    own = replace(own, exam=own.exam.take(6), base=None, outliers=("outlier", "base"))
    found, data = answer("breakdown", own)
    cells = {(one["method"], one["good"], one["outliers"]): one["left"] for one in data["cells"]}
    n = len(own.models)
    most = max(outliers for _, good, outliers in cells if good == n)
    assert cells["median", n, most]["value"] > cells["mean", n, most]["value"]
    assert cells["mean", n, 1]["value"] > cells["mean", 1, 1]["value"]
    assert {one["method"] for one in data["cells"]} == {"mean", "median"}  # no base, no ties
    assert found.words[0].startswith("One outlier (outlier)")


def test_what_is_no_outlier_breaks_nothing(fresh: Fresh) -> None:
    def alike(recipe: Any, task: Any) -> Mark:
        picture = np.zeros((32, 32, 3), np.uint8)
        noise = np.random.default_rng([number_of(recipe), task.request.seed]).normal()
        return Mark(task.name, {"near": noise}, {}, 0.0, picture)

    own = fresh()
    own.gallery._opening = lambda made: CallableExaminer(alike)
    found, _ = answer("breakdown", own)
    assert found.words[0].startswith("Cannot tell: outlier alone")


def test_text_encoders_are_reset_and_swapped_back(setting: Setting) -> None:
    _, data = answer("text-encoder", setting)
    assert data["own_encoder"] == ["te-trained"]
    # All encoders but one are the base's, so the mix's encoder is a quarter of the way.
    mix, child = data["reset"]
    assert child["mse"] / mix["mse"] == pytest.approx(16, rel=0.3)
    (back,) = data["swapped_back"]
    assert back["nearer"]["better"] == "yes"
    assert data["reset_first"]["elements_that_differ"] == 0
    assert data["reset_first"]["same_pictures"] == 1


@pytest.mark.parametrize(
    ("name", "changes", "lacks"),
    [
        ("distance", {"outliers": ("outlier", "te-trained", "style-glossy")}, "at least 5"),
        ("breakdown", {"score": ""}, "--score"),
        ("convergence", {"n_mixes": 2}, "--mixes"),
        ("text-encoder", {"base": None}, "--base"),
        ("text-encoder", {"outliers": ("outlier", "te-trained")}, "nothing"),
    ],
)
def test_what_is_missing_is_said(
    setting: Setting, name: str, changes: dict[str, Any], lacks: str
) -> None:
    reason = STUDIES[name].missing(replace(setting, **changes))
    if lacks == "nothing":
        assert "changes nothing" in reason or reason == ""
    else:
        assert lacks in reason
