"""The gallery: drawn once, known afterwards, by contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from stockpot.checkpoints import Source
from stockpot.errors import RequestError
from stockpot.recipes import model
from stockpot.scores import make_scorer
from stockpot.studies import Gallery, Made, Setting

Fresh = Callable[..., Setting]


def test_a_picture_is_drawn_once(fresh: Fresh, setting: Setting) -> None:
    own = fresh()
    tasks = own.tasks(4)
    first = list(own.gallery.pictures(own.alone("base"), tasks))
    assert own.gallery.n_drawn == 4 and own.gallery.n_missing(own.alone("base"), tasks) == 0
    # Another run on the same folder draws nothing, and only what is missing of a longer exam.
    again = Gallery(own.gallery.folder, own.pool, own.gallery._opening)
    second = list(again.pictures(own.alone("base"), tasks))
    assert again.n_drawn == 0 and again.n_kept == 4
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert again.marks(own.alone("base"), own.tasks(6)).keys() == {t.name for t in own.tasks(6)}
    assert again.n_drawn == 2


def test_nothing_but_pictures_is_written(fresh: Fresh) -> None:
    own = fresh()
    list(own.gallery.pictures(own.mix(), own.tasks(2)))
    files = [path for path in own.gallery.folder.rglob("*") if path.is_file()]
    assert len(files) == 2 and all(path.suffix == ".png" for path in files)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_keys_follow_from_contents_and_recipes(setting: Setting) -> None:
    gallery = setting.gallery
    names = setting.models
    mixed = gallery.key(setting.mix())
    assert mixed == gallery.key(setting.mix(names[::-1]))
    keys = {mixed, gallery.key(setting.mix(names[:2])), gallery.key(setting.alone(names[0])),
            gallery.key(setting.mix(encoders=("base",)))}  # fmt: skip
    assert len(keys) == 4
    other = replace(setting.pool.members[1], unet="0" * 32)
    members = tuple(other if one.name == other.name else one for one in setting.pool.members)
    changed = Gallery(gallery.folder, replace(setting.pool, members=members), gallery._opening)
    assert changed.key(setting.mix()) != mixed
    halved = Gallery(gallery.folder, setting.pool, gallery._opening, setup="float16")
    assert halved.key(setting.mix()) != mixed


def test_an_adapter_counts_where_a_prompt_names_it(setting: Setting) -> None:
    bare, _ = setting.tasks(2)
    named = replace(bare, request=replace(bare.request, prompt="a thing <lora:hat:1>"))
    files = [
        [gallery._file("0", task).name for task in (bare, named)]
        for gallery in (
            Gallery(setting.gallery.folder, setting.pool, setting.gallery._opening,
                    adapters={"hat": digest})
            for digest in ("1", "2")
        )
    ]  # fmt: skip
    assert files[0][0] == files[1][0] and files[0][1] != files[1][1]


def test_a_made_model_is_computed_only_when_a_picture_is_missing(
    fresh: Fresh, sources: dict[str, Source]
) -> None:
    own, asked = fresh(), []

    def make() -> dict[str, Source]:
        asked.append(1)
        return {"made": sources["outlier"]}

    recipe = own.recipe(model("made"), model("made"), made=("made",))
    made = Made("the outlier again", make)
    shown = list(own.gallery.pictures(recipe, own.tasks(2), made=made))
    again = list(own.gallery.pictures(recipe, own.tasks(2), made=made))
    assert len(asked) == 1
    outlier = list(own.gallery.pictures(own.alone("outlier"), own.tasks(2)))
    for a, b, c in zip(shown, again, outlier, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)


def test_a_new_scorer_scores_what_is_there(fresh: Fresh) -> None:
    own = fresh()
    tasks = own.tasks(2)
    list(own.gallery.pictures(own.mix(), tasks))
    with pytest.raises(RequestError, match="needs marks of 'contrast'"):
        own.gallery.scores(own.mix(), tasks, "contrast")
    scorers = {"contrast": make_scorer("contrast")}
    more = Gallery(own.gallery.folder, own.pool, own.gallery._opening, scorers=scorers)
    found = more.scores(own.mix(), tasks, "contrast")
    assert more.n_drawn == 0
    picture = next(more.pictures(own.mix(), tasks))
    assert found[tasks[0].name] == pytest.approx(
        float(scorers["contrast"].score([picture], [""])[0])
    )
    # It is kept with the picture, beside the earlier marks.
    kept = Gallery(own.gallery.folder, own.pool, own.gallery._opening).marks(own.mix(), tasks)
    assert kept[tasks[0].name].scores.keys() == {"near", "contrast"}


def test_reversed_tasks_count_with_minus_their_score(fresh: Fresh) -> None:
    own = fresh()
    (task,) = own.tasks(1)
    other = replace(task, reverse=True)
    up = own.gallery.scores(own.mix(), [task], "near")
    down = own.gallery.scores(own.mix(), [other], "near")
    assert up[task.name] == -down[task.name] != 0


def test_a_foreign_file_in_the_gallery_is_said(fresh: Fresh) -> None:
    own = fresh()
    tasks = own.tasks(1)
    list(own.gallery.pictures(own.mix(), tasks))
    (file,) = own.gallery.folder.rglob("*.png")
    file.write_bytes(b"no picture")
    with pytest.raises(RequestError, match="remove it, and it will be drawn again"):
        own.gallery.marks(own.mix(), tasks)
    with pytest.raises(RequestError, match="cannot be read"):
        list(own.gallery.pictures(own.mix(), tasks))
