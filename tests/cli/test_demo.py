"""The demo, on a family of random weights: quick, and without the zoo."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from stockpot.checkpoints import FileSink, MemorySource, open_checkpoint
from stockpot.cli.demo import run_demo
from stockpot.cli.demo_page import half_width
from stockpot.cli.demo_result import FILES, DemoResult
from stockpot.draw import DrawSettings
from stockpot.engine import merge
from stockpot.errors import CheckpointError, OutputExistsError
from stockpot.layouts import Cell
from stockpot.recipes import read_recipe
from stockpot.zoo import ZooNotInstalled
from stockpot.zoo import family as family_of_the_zoo

QUICK = DrawSettings(steps=1, cfg=2.0)
PROMPTS = ("flat art, a large red heart on white background", "<b>blue</b> star")
EVIL = "<img onerror=alert(1)>"


@dataclass(frozen=True)
class Member:
    """As much of a zoo's member as the demo asks for."""

    name: str
    path: Path
    role: str


class Brightness:
    """A scorer that needs no weights."""

    def score(
        self, images: npt.NDArray[np.uint8], prompts: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """The mean of the bytes."""
        assert len(images) == len(prompts)
        return np.asarray(images.mean(axis=(1, 2, 3)), np.float64)


@pytest.fixture(scope="module")
def family(
    make_model: Callable[..., MemorySource], tmp_path_factory: pytest.TempPathFactory
) -> list[Member]:
    folder = tmp_path_factory.mktemp("family")

    def member(name: str, role: str, source: MemorySource) -> Member:
        path = folder / f"{role}.safetensors"
        sink = FileSink(path, dict(source.tensors), dict(source.metadata))
        for key in source.tensors:
            sink.write(key, 0, memoryview(source.read_bytes(key)))
            sink.tensor_done(key, None)
        sink.commit(dict(source.metadata))
        return Member(name, path, role)

    return [
        member("one", "style", make_model(1)),
        member("the base", "base", make_model(0)),
        member(EVIL, "subset", make_model(2)),
        member("cut", "pruned", make_model(3, without=("vae",))),
        member("fast", "v-prediction", make_model(4, extra={"v_pred": b""})),
    ]


@pytest.fixture(scope="module")
def demo(
    family: list[Member], config: Path, tmp_path_factory: pytest.TempPathFactory
) -> DemoResult:
    return run_demo(
        tmp_path_factory.mktemp("demo") / "out",
        prompts=PROMPTS,
        n_seeds=2,
        settings=QUICK,
        members=family,
        config=config,
        scorers={"brightness": Brightness()},
    )


def test_all_files_are_there(demo: DemoResult) -> None:
    assert {file.name for file in demo.page.parent.iterdir()} == set(FILES)


def test_the_soup_is_the_mean_of_what_fits(demo: DemoResult) -> None:
    rows = demo.merged.plan.fold.rows
    third = Fraction(1, 3)
    assert dict(rows[Cell("unet", "IN00")]) == {"one": third, EVIL: third, "cut": third}
    assert dict(rows[Cell("te", "layer00")]) == {"the base": 1}
    assert dict(rows[Cell("vae", "decoder")]) == {"the base": 1}
    left_out = {parent.name: parent.left_out for parent in demo.parents if parent.left_out}
    assert left_out.keys() == {"the base", "fast"}
    assert "predicts velocity" in left_out["fast"]


def test_the_recipe_makes_the_soup_again(demo: DemoResult, tmp_path: Path) -> None:
    again = merge(read_recipe(demo.recipe), tmp_path / "again.safetensors")
    assert again.content_hash == demo.merged.content_hash
    assert (tmp_path / "again.safetensors").read_bytes() == demo.soup.read_bytes()


def test_every_model_is_drawn_for_every_prompt_and_seed(demo: DemoResult) -> None:
    assert demo.rows == ("the base", "soup", "one", EVIL, "cut", "fast")
    assert demo.pictures.shape == (6, 2, 2, 32, 32, 3)
    assert demo.scores["brightness"].shape == (6, 2, 2)
    flat = demo.pictures.reshape(24, -1)
    assert len(np.unique(flat, axis=0)) == 24


def test_the_page_shows_names_as_text_and_no_folders(
    demo: DemoResult, family: list[Member]
) -> None:
    html = demo.page.read_text(encoding="utf-8")
    assert EVIL not in html and "&lt;img onerror=alert(1)&gt;" in html
    assert "<b>blue" not in html
    assert html.count("data:image/png;base64,") == 12
    assert not re.search(r"https?://", html)
    assert str(family[0].path.parent) not in html
    assert "1/3" in html and (demo.merged.content_hash or "?") in html
    for parent in demo.parents:
        assert parent.model_hash in html


def test_an_earlier_demo_is_kept(demo: DemoResult, family: list[Member], config: Path) -> None:
    before = {file: file.read_bytes() for file in demo.page.parent.iterdir()}
    with pytest.raises(OutputExistsError, match="demo.html, .* are there already"):
        run_demo(demo.page.parent, members=family, config=config, scorers={})
    assert {file: file.read_bytes() for file in demo.page.parent.iterdir()} == before


def test_two_runs_make_the_same_soup_and_pictures(
    demo: DemoResult, family: list[Member], config: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    stages: dict[str, tuple[int, int]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        stages[stage] = (done, total)

    again = run_demo(
        tmp_path,
        prompts=PROMPTS,
        n_seeds=2,
        settings=QUICK,
        members=[*family],
        config=config,
        scorers={},
        echo=lines.append,
        progress=progress,
    )
    assert again.soup.read_bytes() == demo.soup.read_bytes()
    assert np.array_equal(again.pictures, demo.pictures)
    assert again.sheet.read_bytes() == demo.sheet.read_bytes()
    assert "inspected 5 checkpoints; 3 of them go into the soup" in lines
    assert stages["drawing"] == (24, 24)
    with open_checkpoint(again.soup) as source:
        assert "stockpot.recipe" in source.metadata


def test_a_family_needs_one_base_and_a_fine_tune(
    family: list[Member], config: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="a family has one base, but this one has 0"):
        run_demo(tmp_path, members=[family[0]], config=config, scorers={})
    with pytest.raises(CheckpointError, match="the soup needs at least one fine-tune"):
        run_demo(tmp_path / "a", members=[family[1], family[4]], config=config, scorers={})


def test_the_interval_is_student_s() -> None:
    # t(0.975) is 2.3646 with 7 degrees of freedom, and 2.0086 with 49.
    values = np.arange(8.0)
    assert half_width(values) == pytest.approx(2.3646 * 6**0.5 / 8**0.5, rel=0.01)
    values = np.arange(50.0)
    expected = 2.0096 * values.std(ddof=1) / 50**0.5
    assert half_width(values) == pytest.approx(expected, rel=0.001)
    assert half_width(np.ones(1)) == float("inf")


def test_without_the_zoo_the_error_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stockpot_zoo", None)
    with pytest.raises(ZooNotInstalled, match=r"type: pip install \./zoo"):
        run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_zoo_from_end_to_end(tmp_path: Path) -> None:
    members = family_of_the_zoo()
    result = run_demo(tmp_path, prompts=PROMPTS[:1], n_seeds=1, settings=QUICK)
    assert set(result.rows) == {"soup", *(member.name for member in members)}
    assert result.scores.keys() == {"attributes", "clip"}
    velocity = [parent.name for parent in result.parents if parent.velocity]
    assert velocity == [member.name for member in members if member.prediction == "v"]
    assert all(parent.found.architecture == "zoo" for parent in result.parents)
    assert result.page.stat().st_size < 2_000_000
