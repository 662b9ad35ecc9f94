"""Many paired comparisons at once."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.studies import contrast_all, holm, sign_flips


def test_sign_flips_agree_with_all_flips_by_hand() -> None:
    differences = np.array([1.0, 2.0, 3.0, -0.5])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()))
    assert sign_flips(differences, n_flips=20_000) == pytest.approx(exact, abs=0.01)
    assert sign_flips(-differences) == sign_flips(differences)


def test_pictures_of_a_payload_are_flipped_together() -> None:
    rng = np.random.default_rng(0)
    of_payload = np.repeat(rng.normal(0, 1, 6), 50)
    groups = [str(i // 50) for i in range(300)]
    # Three hundred pictures, but six prompts: no p below 2/2⁶ can come of that.
    assert sign_flips(of_payload + 0.5, groups) > 0.02
    assert sign_flips(of_payload + 0.5) < 0.001


def test_sign_flips_of_vectors_and_their_level() -> None:
    rng = np.random.default_rng(1)
    p = [sign_flips(rng.normal(size=(12, 5)), n_flips=199, seed=i) for i in range(400)]
    assert np.mean(np.array(p) <= 0.05) < 0.08
    assert sign_flips(rng.normal(1, 1, (12, 5))) < 0.01
    with pytest.raises(ValueError, match="tasks"):
        sign_flips(np.zeros(0))


def test_contrasts_are_corrected_within_families() -> None:
    rng = np.random.default_rng(2)
    base = rng.uniform(1, 2, 40)
    pairs = {
        "less": (0.5 * base, base),
        "more": (base + rng.normal(0.5, 0.1, 40), base),
        "same": (base, base),
        "noise": (rng.uniform(0, 4, 40), rng.uniform(0, 4, 40)),
    }
    groups = [str(i // 2) for i in range(40)]
    together = contrast_all(pairs, groups)
    assert {name: one.state for name, one in together.items()} == {
        "less": "less", "more": "more", "same": "alike", "noise": "cannot tell",
    }  # fmt: skip
    p = {name: one.p for name, one in together.items()}
    assert {name: one.corrected for name, one in together.items()} == holm(p)
    apart = contrast_all(pairs, groups, families={name: name for name in pairs})
    assert all(one.corrected == one.p for one in apart.values())


def test_where_nothing_differs_little_is_found() -> None:
    rng = np.random.default_rng(5)
    groups = [str(i % 10) for i in range(20)]
    found = 0
    for seed in range(60):
        mix = rng.lognormal(0, 0.5, 20)
        pairs = {str(k): (mix, rng.lognormal(0, 0.5, 20)) for k in range(4)}
        rows = contrast_all(pairs, groups, n_permutations=50, seed=seed)
        found += any(one.corrected < 0.05 for one in rows.values())
    assert found <= 8  # one in twenty is allowed; more than 8 of 60 would be chance in a hundred


def test_numbers_to_compare_are_finite_and_paired() -> None:
    with pytest.raises(ValueError, match="finite"):
        contrast_all({"a": (np.array([1.0, np.nan]), np.ones(2))}, ["x", "y"])
