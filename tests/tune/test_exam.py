"""Exams: every payload field honoured or refused, and seeds that never meet."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.draw import Request
from stockpot.errors import RequestError
from stockpot.tune import Exam, Task, read_exam

PAYLOAD: dict[str, Any] = {"prompt": "a red heart", "seed": 5, "steps": 2, "width": 32,
                           "height": 32, "sampler_name": "Euler"}  # fmt: skip


def write(folder: Path, name: str, content: Any = None, **fields: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**PAYLOAD, **fields} if content is None else content), "utf-8")
    return path


def seeds(exam: Exam) -> list[int]:
    return [task.request.seed for task in exam.tasks]


def prompts(exam: Exam) -> list[str]:
    return [task.request.prompt for task in exam.tasks]


def test_pictures_of_payloads_take_turns(tmp_path: Path) -> None:
    write(tmp_path, "b", n_iter=2, batch_size=2, seed=10)
    write(tmp_path, "a", prompt="a blue star")
    exam = read_exam([tmp_path])
    names = ["a.json#0", "b.json#0", "b.json#1", "b.json#2", "b.json#3"]
    assert [task.name for task in exam.tasks] == names
    assert seeds(exam) == [5, 10, 11, 12, 13]
    assert exam.payloads == ("a.json", "b.json")
    assert exam["b.json#2"].payload == "b.json"
    assert [task.name for task in exam.take(2).tasks] == names[:2]
    assert exam.notes == ()


def test_more_repeats_keep_the_tasks_of_fewer(tmp_path: Path) -> None:
    write(tmp_path, "a", n_iter=2)
    one, three = read_exam([tmp_path]), read_exam([tmp_path], repeats=3)
    assert three.tasks[:2] == one.tasks
    assert [task.name for task in three.tasks[2:4]] == ["a.json#0.1", "a.json#1.1"]
    assert seeds(three) == [5, 6, 7, 8, 9, 10]


def test_a_seed_replaces_the_payloads_own(tmp_path: Path) -> None:
    write(tmp_path, "a", n_iter=3)
    one, two = read_exam([tmp_path], seed=1), read_exam([tmp_path], seed=2)
    assert len({*seeds(one), *seeds(two), 5, 6, 7}) == 9
    assert seeds(read_exam([tmp_path], seed=1)) == seeds(one)


def test_a_payload_that_leaves_its_seed_to_chance_is_drawn_the_same_by_all(tmp_path: Path) -> None:
    write(tmp_path, "a", seed=-1)
    exam = read_exam([tmp_path])
    assert seeds(exam) == seeds(read_exam([tmp_path]))
    assert [note.code for note in exam.notes] == ["seed"]


def test_sizes_steps_and_second_pass_can_be_changed(tmp_path: Path) -> None:
    write(tmp_path, "a", width=1344, height=768, enable_hr=True, hr_second_pass_steps=9,
          hr_resize_x=2000)  # fmt: skip
    (task,) = read_exam([tmp_path], size_scale=1 / 24, steps=3).tasks
    how = task.request.settings
    assert (how.width, how.height, how.steps) == (56, 32, 3)
    assert how.hires is not None and (how.hires.steps, how.hires.width) == (3, 80)
    (task,) = read_exam([tmp_path], size=(64, 48)).tasks
    how = task.request.settings
    assert (how.width, how.height) == (64, 48)
    assert how.hires is not None and how.hires.width == 0
    (task,) = read_exam([tmp_path], hires=False).tasks
    assert task.request.settings.hires is None


def test_score_prompts_and_reversal(tmp_path: Path) -> None:
    write(tmp_path, "a", score_prompt="heart (red)", reverse_scoring=True)
    (task,) = read_exam([tmp_path]).tasks
    assert task.score_prompt == "heart (red)" and task.reverse
    assert read_exam([tmp_path]).notes == ()


def test_a_file_may_hold_a_list(tmp_path: Path) -> None:
    path = write(tmp_path, "list", [PAYLOAD, {**PAYLOAD, "seed": 9}])
    exam = read_exam([path])
    assert [task.name for task in exam.tasks] == ["list.json:0#0", "list.json:1#0"]
    assert seeds(exam) == [5, 9]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "x", "a")
    write(tmp_path / "y", "a")
    write(tmp_path / "y", "b")
    exam = read_exam([tmp_path / "x", tmp_path / "y", tmp_path / "y"])
    assert exam.payloads == ("x/a.json", "y/a.json", "b.json")


def test_random_wildcards_are_filled_by_the_tasks_seed(tmp_path: Path) -> None:
    write(tmp_path, "a", prompt="{red|blue|green} __what__", wildcard_type="random", n_iter=40,
          negative_prompt="{x|y}")  # fmt: skip
    lists = {"what": ["heart", "{big|small} star"]}
    exam = read_exam([tmp_path], lists=lists)
    assert prompts(exam) == prompts(read_exam([tmp_path], lists=lists))
    found = set(prompts(exam))
    assert found == {f"{c} {w}" for c in ("red", "blue", "green")
                     for w in ("heart", "big star", "small star")}  # fmt: skip
    assert {task.request.settings.negative for task in exam.tasks} == {"x", "y"}
    assert prompts(exam.held_out(1)) != prompts(exam)
    assert set(prompts(exam.held_out(1))) <= found


def test_combinations_are_drawn_one_after_the_other(tmp_path: Path) -> None:
    write(tmp_path, "a", prompt="{red|blue} {heart|star}", wildcard_type="combinatorial",
          n_iter=3, batch_size=2)  # fmt: skip
    exam = read_exam([tmp_path])
    assert prompts(exam) == ["red heart"] * 2 + ["red star"] * 2 + ["blue heart"] * 2
    assert prompts(exam.held_out(1)) == prompts(exam)
    write(tmp_path, "a", prompt="{red|blue}", wildcard_type="combinatorial", n_iter=3)
    exam = read_exam([tmp_path])
    assert prompts(exam) == ["red", "blue"]
    assert "3 prompts are asked for, and there are 2" in str(exam.notes[0])


def test_without_wildcards_a_prompt_stands_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "a", prompt="{red|blue} __what__", wildcard_type="none")
    assert prompts(read_exam([tmp_path], lists={"what": ["heart"]})) == ["{red|blue} __what__"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wildcard_type": "lucky"}, "must be one of none, random, combinatorial, but is 'lucky'"),
        ({"wildcard_type": "random", "prompt": "{a|b"}, "needs its closing bracket"),
        ({"wildcard_type": "random", "prompt": "__a__"}, "__a__: no list has this name"),
        ({"wildcard_type": "random", "prompt": "{3$$a|b}"}, "of 2 options 3 to 3 cannot be taken"),
        ({"reverse_scoring": "yes"}, "true or false is needed, but got 'yes'"),
        ({"score_prompt": 3}, "a text is needed, but got 3"),
        ({"steps": 0}, "`steps` must be at least 1"),
        ({"sampler_name": "Eulr"}, "did you mean 'Euler'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write(tmp_path, "a", **fields)
    with pytest.raises(RequestError, match="^(?s:.*)" + message.replace("?", r"\?")):
        read_exam([tmp_path])


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a", steps=0)
    write(tmp_path, "b", [1])
    (tmp_path / "c.json").write_text("{", "utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError) as caught:
        read_exam([tmp_path, tmp_path / "empty", tmp_path / "none.json"])
    assert [p.code for p in caught.value.problems] == [
        "empty", "no-object", "unreadable", "unreadable", "payload",
    ]  # fmt: skip
    with pytest.raises(RequestError, match="at least one payload"):
        read_exam([])
    with pytest.raises(RequestError, match="must be at least 1"):
        read_exam([tmp_path], repeats=0)


def test_an_exam_checks_its_tasks() -> None:
    task = Task("t", "p", Request("x", 1))
    with pytest.raises(RequestError, match="at least one task"):
        Exam(())
    with pytest.raises(RequestError, match="two tasks"):
        Exam((task, task))
    with pytest.raises(RequestError, match="one picture"):
        Exam((replace(task, request=Request("x", -1)),))
    with pytest.raises(KeyError):
        Exam((task,))["u"]


def test_keys_are_of_requests_not_of_paths(tmp_path: Path) -> None:
    write(tmp_path / "one", "a", n_iter=2)
    write(tmp_path / "two", "renamed", n_iter=2, batch_size=1)
    one, two = read_exam([tmp_path / "one"]), read_exam([tmp_path / "two"])
    assert one.key == two.key != one.take(1).key
    for fields in ({"prompt": "x"}, {"seed": 6}, {"cfg_scale": 3}, {"score_prompt": "x"},
                   {"reverse_scoring": True}, {"negative_prompt": "x"}):  # fmt: skip
        write(tmp_path / "two", "renamed", **{"n_iter": 2, **fields})
        assert read_exam([tmp_path / "two"]).key != one.key, fields


def test_exams_travel(tmp_path: Path) -> None:
    exam = read_exam([write(tmp_path, "a", enable_hr=True)])
    assert pickle.loads(pickle.dumps(exam)) == exam


TASKS = st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(TASKS, st.integers(0, 5), st.integers(0, 5), st.integers(1, 3))
def test_held_out_seeds_are_disjoint(
    rows: list[tuple[int, bool]], one: int, two: int, repeats: int
) -> None:
    exam = Exam(
        tuple(
            Task(f"p{i}#0", f"p{i}", Request("x", seed, replace(Request().settings,
                 variation=0.5 * varied, variation_seed=seed)))
            for i, (seed, varied) in enumerate(rows)
        )
    )  # fmt: skip
    held = exam.held_out(one, repeats=repeats)
    assert len(held.tasks) == repeats * len(exam.tasks)
    assert len(set(seeds(held))) == len(held.tasks)
    assert not set(seeds(held)) & {*seeds(exam), *(seed for seed, _ in rows)}
    assert held == exam.held_out(one, repeats=repeats)
    again = held.held_out(two)
    assert not set(seeds(again)) & set(seeds(held))
    assert not {task.name for task in held.tasks} & {task.name for task in exam.tasks}
    other = exam.held_out(one, avoid=held)
    assert not set(seeds(other)) & set(seeds(held))
    assert {task.payload for task in held.tasks} == set(exam.payloads)


def test_the_nine_pictures_of_a_real_payload(data: Path) -> None:
    exam = read_exam([data / "payloads" / "test-9img.json"])
    assert len(exam.tasks) == 9 and exam.notes == ()
    assert seeds(exam) == [3425689549 + i for i in range(9)]
    assert len(read_exam([data / "payloads"]).tasks) == 15
