"""The zoo's table, against the files that the zoo ships."""

import json
from pathlib import Path

import pytest

from stockpot.layouts import Shape, detect, get_layout

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "zoo" / "src" / "stockpot_zoo" / "data").rglob("*.safetensors"))


def read_shapes(path: Path) -> dict[str, Shape]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {key: tuple(entry["shape"]) for key, entry in header.items()}


@pytest.mark.parametrize("path", FILES or [None], ids=lambda path: path.stem if path else "none")
def test_files_of_the_zoo_fit(path: Path | None) -> None:
    if path is None:
        pytest.skip("the zoo is not trained yet")
    shapes = read_shapes(path)
    if not any(key.startswith("model.diffusion_model.") for key in shapes):
        pytest.skip("an adapter or a scorer, not a checkpoint")
    answer = detect(shapes)
    assert answer.layout is get_layout("zoo"), answer.evidence
    assert not answer.fit.mismatched
    assert not answer.fit.unknown
    assert not any(
        0 < len(keys) < answer.layout.n_required[name]
        for name, keys in answer.fit.missing_in.items()
    )
