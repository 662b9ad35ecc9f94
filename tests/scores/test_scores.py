"""What the zoo's two scorers can tell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stockpot.errors import UnknownNameError
from stockpot.scores import (
    AttributeJudge,
    ClipReward,
    Scorer,
    UnreadPromptWarning,
    make_scorer,
)
from stockpot.zoo.shapes import ATTRIBUTES, STYLES, Scene, all_scenes, caption, render


def fresh(n: int, seed: int) -> tuple[list[Scene], np.ndarray]:
    scenes = list(all_scenes(STYLES))
    rng = np.random.default_rng(seed)
    picked = [scenes[i] for i in rng.choice(len(scenes), size=n, replace=False)]
    return picked, np.stack([render(scene, rng) for scene in picked])


@pytest.fixture(scope="module", params=["attributes", "clip"])
def scorer(request: pytest.FixtureRequest) -> Iterator[Scorer]:
    yield make_scorer(request.param)


def test_larger_pictures_are_resampled(scorer: Scorer) -> None:
    scenes, images = fresh(3, 93)
    prompts = [caption(s) for s in scenes]
    large = images.repeat(4, axis=1).repeat(4, axis=2)
    small = scorer.score(images, prompts)
    np.testing.assert_allclose(scorer.score(large, prompts), small, atol=1e-4)


def test_right_prompts_score_higher(scorer: Scorer) -> None:
    scenes, images = fresh(128, 94)
    prompts = [caption(s) for s in scenes]
    right = scorer.score(images, prompts)
    wrong = scorer.score(images, prompts[1:] + prompts[:1])
    assert (right > wrong).mean() >= 0.97


def test_the_judge_reads_fresh_pictures() -> None:
    scenes, images = fresh(384, 95)
    verdict = AttributeJudge().judge(images, [caption(s) for s in scenes])
    for name in ATTRIBUTES:
        assert verdict[name]["right"].mean() >= 0.98, name


def test_the_judge_looks_only_for_what_is_named() -> None:
    judge = AttributeJudge()
    scenes, images = fresh(4, 96)
    prompts = [caption(s, omit={"style", "background"}) for s in scenes]
    verdict = judge.judge(images, prompts)
    assert np.isnan(verdict["style"]["right"]).all()
    assert not np.isnan(verdict["shape"]["right"]).any()
    named = [verdict[name]["log_probability"] for name in ("size", "colour", "shape")]
    np.testing.assert_allclose(judge.score(images, prompts), np.mean(named, axis=0))
    with pytest.raises(ValueError, match="names no attribute"):
        judge.score(images[:1], ["hello"])


def test_log_probabilities_are_distributions() -> None:
    _, images = fresh(4, 97)
    for name, rows in AttributeJudge().log_probabilities(images).items():
        assert rows.shape == (4, len(ATTRIBUTES[name]))
        np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1.0)


def test_the_reward_takes_any_text() -> None:
    _, images = fresh(2, 98)
    with pytest.warns(UnreadPromptWarning, match="clip does not see the end of a prompt"):
        scores = ClipReward().score(images, ["größe 猫 " * 60, ""])
    assert (np.abs(scores) <= 1 + 1e-6).all()


def test_unknown_scorer_suggests() -> None:
    with pytest.raises(UnknownNameError, match="unknown scorer 'pique'; did you mean 'piqe'"):
        make_scorer("pique")
