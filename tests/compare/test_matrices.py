"""The author's distance files: read as they are, and what they tell."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from stockpot.compare import (
    Comparison,
    DistanceTable,
    distance_table,
    effective_dimension,
    find_outliers,
    members_of_chain,
    place_by_distance,
    read_distance_table,
    trace_convergence,
)
from stockpot.errors import CheckpointError

FOLDER = Path(os.environ.get("STOCKPOT_DATA") or Path(__file__).parents[3] / "shared" / "data")


def table(name: str) -> DistanceTable:
    path = FOLDER / "distances" / f"{name}.json"
    if not path.exists():
        pytest.skip("the author's distances are not here; set STOCKPOT_DATA")
    return read_distance_table(path)


def test_x215c_te1_of_215b_is_the_bases_and_215c_is_half_way() -> None:
    found = table("x215c")
    short = [name.split("-")[0] for name in found.names]
    b, c, base = short.index("x215b"), short.index("x215c"), short.index("_x001")
    a = short.index("x215a")
    te1 = found.matrices["te1"]
    assert te1[b, base] == 0
    # 215a – 215c – 215b lie on a line, 215c in the middle.
    assert te1[a, c] == pytest.approx(te1[a, b] / 2, rel=1e-3)
    assert te1[c, base] == pytest.approx(te1[a, base] / 2, rel=1e-3)
    assert effective_dimension(te1) == pytest.approx(1.0, abs=1e-3)
    # The amplified model is twice as far from the base as what it amplifies.
    amp, unet = short.index("amp"), found.matrices["unet"]
    assert unet[amp, base] == pytest.approx(2 * unet[a, base], rel=1e-3)
    assert found.silent == ("other", "te")
    assert [o.model for o in find_outliers(found.matrices["vae"])][0] == c


def test_sdxl2_holds_an_exact_duplicate() -> None:
    found = table("sdxl2")
    one, other = found.names.index("_x21-nd-run8-weighted-3.safetensors"), 2
    assert "nekoray" in found.names[other]
    told = [name for name in found.matrices if name not in found.silent]
    pairs = [
        (i, j)
        for i in range(len(found.names))
        for j in range(i)
        if all(found.matrices[name][i, j] == 0 for name in told)
    ]
    assert pairs == [(other, one)]


def test_cwd_lies_on_a_line_in_steps_of_a_twentieth() -> None:
    found = table("cwd")
    ends = found.names.index("wd-1-4-anime_e2.ckpt")
    for component in ("unet", "te", "vae"):
        matrix = found.matrices[component]
        assert effective_dimension(matrix) == pytest.approx(1.0, abs=1e-4)
        shares = [float(name.split("(")[0]) if "(wd" in name else None for name in found.names]
        line = [(share, i) for i, share in enumerate(shares) if share is not None]
        step = matrix[line[0][1], line[1][1]]
        assert [share for share, _ in line] == pytest.approx(np.arange(0.4, 1.0, 0.05))
        for share, i in line:
            assert matrix[i, ends] == pytest.approx((1 - share) / 0.05 * step, rel=1e-3)
        assert place_by_distance(matrix).stress < 1e-3


def test_am0_converges_as_its_members_make_it() -> None:
    """The chain 1 → 10 comes near its end sooner than 1/k alone, as its first model is far out."""
    found = table("am0")
    unet = found.matrices["unet"]
    ratios = unet[:, 9] / unet[0, 9]
    k = np.arange(1, 11)
    alone = np.sqrt((1 / k - 1 / 10) / (1 - 1 / 10))
    assert ratios == pytest.approx(
        [1, 0.586, 0.461, 0.229, 0.209, 0.168, 0.087, 0.061, 0.030, 0], abs=5e-4
    )
    assert alone == pytest.approx(
        [1, 0.667, 0.509, 0.408, 0.333, 0.272, 0.218, 0.167, 0.111, 0], abs=5e-4
    )
    members = members_of_chain(unet)
    result = trace_convergence(members)
    assert result.to_end == pytest.approx(unet[:, 9], rel=1e-6, abs=1e-6)
    # Against the same models in other orders nothing converges: the far one just came first.
    assert members.mean(axis=1).argmax() in (0, 6)
    assert result.slower > 0.95


def test_the_zoos_table_round_trips(zoo: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "zoo.json"
    one = distance_table(zoo)
    path.write_text(json.dumps(one.to_json()))
    again = read_distance_table(path)
    assert again.names == zoo.names
    for name, matrix in one.matrices.items():
        assert np.array_equal(again.matrices[name], matrix, equal_nan=True)
    assert np.isnan(again.matrices["vae"][zoo.index("content-angular")]).all()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[]", "TypeError"),
        ("{", "JSON"),
        ('{"ml": ["a"], "dm": {"unet": [[0, 1]]}}', "a matrix must be 1 x 1"),
        ('{"ml": ["a", "b"], "dm": {"unet": [[0, 1], [2, 0]]}}', "symmetric"),
        ('{"ml": ["a", "b"], "dm": {"unet": [[0, -1], [-1, 0]]}}', "not below zero"),
        ('{"ml": ["a", "b"], "dm": {"unet": [[0, 1], [1, 3]]}}', "zero on the diagonal"),
        ('{"ml": ["a", "b"], "dm": {"unet": [[0, 1], [1]]}}', "must be JSON with"),
        ('{"ml": ["a", "b"], "dm": {"unet": [[0, Infinity], [Infinity, 0]]}}', "finite"),
    ],
)
def test_what_is_no_distance_file_is_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=fault):
        read_distance_table(path)
