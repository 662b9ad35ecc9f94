"""Several scorers as one, and how names become scorers."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.errors import ScorerError, UnknownNameError
from stockpot.scores import (
    CallableScorer,
    CommandScorer,
    Contrast,
    Detail,
    Hybrid,
    Part,
    Scale,
    Scorer,
    Setting,
    make_scorer,
    plugins,
    read_scales,
    scales_to_json,
)


def constant(name: str, *values: float) -> Scorer:
    return CallableScorer(name, lambda pictures, texts: values[: len(pictures)])


def pair() -> np.ndarray:
    return np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 200, np.uint8)])


def test_by_hand() -> None:
    hybrid = Hybrid(
        [
            Part(constant("a", 5.0, 7.0), 3.0, Scale(5.0, 2.0)),
            Part(constant("b", 10.0, 0.0), -1.0, Scale(0.0, 10.0)),
        ]
    )
    # (3 * 0 - 1 * 1) / 4 and (3 * 1 - 1 * 0) / 4
    assert hybrid.score(pair(), ["x", "y"]).tolist() == [-0.25, 0.75]


def test_units_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    prompts = ["x"] * 6

    def scored(factor: float, offset: float) -> np.ndarray:
        a = CallableScorer("a", lambda ps, ts: [offset + factor * p.mean() for p in ps])
        b = CallableScorer("b", lambda ps, ts: [p.std() for p in ps])
        return Hybrid.fit([(a, 0.5), (b, 0.5)], pictures, prompts).score(pictures, prompts)

    plain = scored(1, 0)
    np.testing.assert_allclose(scored(1000, -7), plain, atol=1e-9)
    assert plain.mean() == pytest.approx(0)


def test_scales() -> None:
    assert Scale.fit([1.0, 2.0, 3.0]) == Scale(2.0, 1.0)
    for scores in ([], [1.0], [2.0, 2.0]):
        with pytest.raises(ScorerError, match="at least two different scores"):
            Scale.fit(scores)
    for mean, sd in ((0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ScorerError, match="a finite mean and an SD above 0"):
            Scale(mean, sd)


def test_scales_as_a_file(tmp_path: Path) -> None:
    scales = {"b": Scale(1 / 3, 0.1), "a": Scale(-5.0, 2.0)}
    path = tmp_path / "scales.json"
    path.write_text(scales_to_json(scales), encoding="utf-8")
    assert read_scales(path) == scales
    for text in ("[]", "{", '{"a": 1}', '{"a": {"mean": 1}}', '{"a": {"mean": 0, "sd": "x"}}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ScorerError, match="cannot be read as scales"):
            read_scales(path)


def test_missing_scales_are_named() -> None:
    with pytest.raises(ScorerError, match="a standard deviation is of contrast, detail: fit"):
        make_scorer("contrast + detail")
    scales = {"contrast": Scale(0, 1), "detail": Scale(0, 1)}
    hybrid = make_scorer("2*contrast-.5 * detail", scales=scales)
    assert isinstance(hybrid, Hybrid)
    assert [(type(p.scorer), p.weight) for p in hybrid.parts] == [(Contrast, 2.0), (Detail, -0.5)]
    assert not hybrid.uses_prompt and hybrid.deterministic and hybrid.pointwise


def test_weights_must_be_numbers() -> None:
    for weights in ([0.0], [float("nan")], []):
        parts = [Part(constant("a", 1.0), w, Scale(0, 1)) for w in weights]
        with pytest.raises(ScorerError, match="finite weights, and one that is not 0"):
            Hybrid(parts)


def test_a_single_weighted_name_is_a_hybrid() -> None:
    assert isinstance(make_scorer("-1*contrast", scales={"contrast": Scale(0, 1)}), Hybrid)
    assert isinstance(make_scorer("contrast"), Contrast)


def test_it_says_what_its_parts_do_not_read(originals: Any) -> None:
    scales = {"hpsv2": Scale(0, 1), "contrast": Scale(0, 1)}
    setting = Setting(folder=originals.folder)
    hybrid = make_scorer("imagereward + hpsv2 + contrast", setting, scales)
    assert isinstance(hybrid, Hybrid)
    longest = hybrid.read("red " * 60).left_out
    assert longest == max((p.scorer.read("red " * 60).left_out for p in hybrid.parts), key=len)
    assert longest


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'imagereward'"):
        make_scorer("imagerewad")
    with pytest.raises(UnknownNameError, match="unknown scorer 'contrast detail'"):
        make_scorer("contrast detail")
    with pytest.raises(UnknownNameError, match="unknown scorer ''"):
        make_scorer("")


def offer(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [
        importlib.metadata.EntryPoint(name, value, "stockpot.scores")
        for name, value in values.items()
    ]
    monkeypatch.setattr("stockpot.scores.callables.entry_points", lambda group: points)


def test_installed_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(
        monkeypatch,
        sizes="builtins:len",
        contrast2="stockpot.scores:Contrast",
        **{"con-trast": "stockpot.scores:Contrast"},
        version="stockpot:__version__",
        absent="no_such_module:score",
        missing="stockpot.scores:score_nothing",
    )
    assert sorted(plugins()) == ["absent", "con-trast", "contrast2", "missing", "sizes", "version"]
    assert isinstance(make_scorer("contrast2"), Contrast)
    assert isinstance(make_scorer("con-trast"), Contrast)
    with pytest.raises(ScorerError, match="sizes failed: TypeError"):
        make_scorer("sizes").score(pair(), ["x", "y"])
    with pytest.raises(ScorerError, match="'version' .* must be a Scorer or a callable"):
        make_scorer("version")
    for name in ("absent", "missing"):
        with pytest.raises(ScorerError, match=f"'{name}' .* cannot be loaded"):
            make_scorer(name)


def test_an_installed_name_does_not_hide_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, piqe="builtins:len")
    assert type(make_scorer("piqe")).__name__ == "Piqe"


def test_two_of_a_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [importlib.metadata.EntryPoint("x", v, "stockpot.scores") for v in ("a:b", "c:d")]
    monkeypatch.setattr("stockpot.scores.callables.entry_points", lambda group: points)
    with pytest.raises(ScorerError, match=r"offer a scorer 'x' \(a:b and c:d\)"):
        plugins()


def test_programs_by_name() -> None:
    scorer = make_scorer("command:my-scorer --level 'a b'")
    assert isinstance(scorer, CommandScorer)
    assert scorer.command == ("my-scorer", "--level", "a b") and scorer.name == "my-scorer"
