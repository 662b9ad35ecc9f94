"""A person as a scorer: strengths from answers, a file that survives, a page that is private."""

from __future__ import annotations

import http.client
import io
import itertools
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import ScorerError
from stockpot.scores import (
    Comparison,
    HumanChoice,
    PageAsker,
    Question,
    TerminalAsker,
    fit_strengths,
)

PICTURES = [np.full((4, 5, 3), level, np.uint8) for level in (10, 60, 110, 160, 210)]


class Person:
    """Answers by a rule, and stops after so many questions."""

    def __init__(self, rule: Callable[[Question], float], most: int = 10**6) -> None:
        self.rule, self.most = rule, most
        self.asked: list[Question] = []
        self.closed = 0

    def ask(self, question: Question) -> float | None:
        if len(self.asked) == self.most:
            return None
        self.asked.append(question)
        return self.rule(question)

    def close(self) -> None:
        self.closed += 1


def brighter(question: Question) -> float:
    return float(question.left.mean() > question.right.mean())


def test_two_players_by_hand() -> None:
    # 3 wins of 4, and the prior's draws: x = s1/s2 maximises the likelihood. With points
    # p1 = 3.5, p2 = 1.5 and s2 = 1 / s1 the condition is 3.5 = 4 s1/(s1 + s2) + s1/(s1 + 1).
    answers = [Comparison(0, 1, 1.0)] * 3 + [Comparison(0, 1, 0.0)]
    first, second = np.exp(fit_strengths(2, answers))
    assert first * second == pytest.approx(1)
    assert 4 * first / (first + second) + first / (first + 1) == pytest.approx(3.5, abs=1e-6)


def test_the_prior_alone_makes_all_equal() -> None:
    assert fit_strengths(4, []).tolist() == [0] * 4
    assert fit_strengths(0, []).shape == (0,)


@given(st.permutations(range(4)), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_names_and_order_do_not_matter(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = list(itertools.combinations(range(4), 2))
    answers = [Comparison(a, b, rng.choice([0, 0.5, 1])) for a, b in pairs]
    strengths = fit_strengths(4, answers)
    moved = [Comparison(order[c.second], order[c.first], 1 - c.share) for c in reversed(answers)]
    np.testing.assert_allclose(fit_strengths(4, moved)[list(order)], strengths, atol=1e-8)


def test_strengths_are_found_again() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([-1.0, -0.3, 0.2, 1.1])
    answers = []
    for a, b in itertools.combinations(range(4), 2):
        chance = 1 / (1 + np.exp(truth[b] - truth[a]))
        answers += [Comparison(a, b, float(w)) for w in rng.random(2000) < chance]
    np.testing.assert_allclose(fit_strengths(4, answers), truth, atol=0.1)


def test_the_better_picture_gets_more(tmp_path: Path) -> None:
    person = Person(brighter)
    scorer = HumanChoice(tmp_path / "a.jsonl", open_asker=lambda: person)
    scores = scorer.score(PICTURES)
    assert (np.diff(scores) > 0).all() and scores.mean() == pytest.approx(0)
    # Five pictures, four others each, every pair once; no more than that is asked.
    assert len(person.asked) == 10 and person.closed == 1
    assert [q.number for q in person.asked] == list(range(1, 11))
    assert {q.total for q in person.asked} == {10}
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 10
    # Sides are mixed, so that always clicking left tells nothing.
    assert 0 < sum(brighter(q) for q in person.asked) < 10


def test_answers_are_used_again(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    first = HumanChoice(file, open_asker=lambda: Person(brighter)).score(PICTURES)

    def nobody() -> Person:
        raise AssertionError("nothing is to be asked")

    again = HumanChoice(file, open_asker=nobody).score(PICTURES[::-1])
    assert np.array_equal(again, first[::-1])


def test_stopping_and_going_on(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    whole = Person(brighter)
    expected = HumanChoice(tmp_path / "b.jsonl", open_asker=lambda: whole).score(PICTURES)
    person = Person(brighter, most=3)
    with pytest.raises(ScorerError, match="stopped after 3 of about 10 answers; they are in"):
        HumanChoice(file, open_asker=lambda: person).score(PICTURES)
    assert person.closed == 1
    # Killed while writing the fourth.
    with open(file, "a", encoding="utf-8") as cut:
        cut.write('{"first": "00')
    rest = Person(brighter)
    scores = HumanChoice(file, open_asker=lambda: rest).score(PICTURES)
    assert np.array_equal(scores, expected)
    assert [q.number for q in rest.asked] == list(range(4, 11))


def test_prompts_are_kept_apart(tmp_path: Path) -> None:
    person = Person(brighter)
    scorer = HumanChoice(tmp_path / "a.jsonl", open_asker=lambda: person, rounds=1)
    scores = scorer.score(PICTURES, ["cat", "dog", "cat", "dog", "cow"])
    assert {q.prompt for q in person.asked} == {"cat", "dog"}
    assert scores[2] > 0 > scores[0] and scores[3] > 0 > scores[1] and scores[4] == 0
    with pytest.raises(ScorerError, match="no two of these have the same one"):
        scorer.score(PICTURES[:2], ["cat", "dog"])


def test_draws_and_many_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    many = [rng.integers(0, 256, (3, 3, 3)).astype(np.uint8) for _ in range(30)]
    person = Person(lambda question: 0.5)
    scorer = HumanChoice(tmp_path / "a.jsonl", open_asker=lambda: person, rounds=3)
    assert np.abs(scorer.score(many)).max() < 1e-9
    assert 45 <= len(person.asked) <= 50
    seen: dict[bytes, int] = {}
    for question in person.asked:
        for picture in (question.left, question.right):
            seen[picture.tobytes()] = seen.get(picture.tobytes(), 0) + 1
    assert min(seen.values()) >= 3 and len(seen) == 30


@pytest.mark.parametrize(
    "line",
    ['{"first": "a"}', '{"first": "b", "second": "a", "share": 1}', '[{}]}',
     '{"first": "a", "second": "b", "share": 0.7}', '{"first": 1, "second": 2, "share": 1}'],
)  # fmt: skip
def test_damaged_answers_are_told(line: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"first": "a", "second": "b", "share": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ScorerError, match="line 2 is no answer"):
        HumanChoice(file)


def test_rounds_are_at_least_one() -> None:
    with pytest.raises(ScorerError, match="`rounds` must be at least 1, but got 0"):
        HumanChoice(rounds=0)


class Browser:
    """What a browser does with the page."""

    def __init__(self, address: str) -> None:
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/[\w-]{20,}/)", address)
        assert found
        self.port, self.path = int(found.group(1)), found.group(2)

    def get(self, path: str | None = None, host: str | None = None) -> tuple[int, bytes]:
        return self.send("GET", path or self.path, None, host)[:2]

    def send(
        self, method: str, path: str, body: str | None = None, host: str | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Host": host} if host else {}
        line.request(method, path, body, headers)
        answer = line.getresponse()
        found = answer.status, answer.read(), dict(answer.getheaders())
        line.close()
        return found

    def choose(self, number: int, choice: str) -> int:
        body = f"number={number}&choice={choice}"
        return self.send("POST", f"{self.path}answer", body)[0]


def asking(asker: PageAsker, questions: list[Question]) -> tuple[threading.Thread, list[object]]:
    answers: list[object] = []

    def ask() -> None:
        for question in questions:
            answers.append(asker.ask(question))
        asker.close()

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, answers


def question(number: int, prompt: str = "a <b>cat</b>") -> Question:
    return Question(PICTURES[0], PICTURES[1], prompt, number, 4)


def test_the_page() -> None:
    from PIL import Image

    told: list[str] = []
    asker = PageAsker(tell=told.append)
    assert told == [f"choose at {asker.address}"]
    browser = Browser(asker.address)
    thread, answers = asking(asker, [question(n) for n in range(1, 5)])
    status, page = browser.get()
    text = page.decode()
    assert status == 200 and "1 of about 4" in text
    assert "a &lt;b&gt;cat&lt;/b&gt;" in text and "<b>" not in text
    for side, picture in (("left", PICTURES[0]), ("right", PICTURES[1])):
        status, data = browser.get(f"{browser.path}1-{side}.png")
        assert status == 200 and np.array_equal(np.array(Image.open(io.BytesIO(data))), picture)
    assert browser.choose(1, "left") == 303
    assert b"2 of about 4" in browser.get()[1]
    # A second click on the page before, and nonsense, answer nothing.
    assert browser.choose(1, "right") == 303 and browser.choose(2, "both") == 303
    browser.choose(2, "right")
    browser.get()
    browser.choose(3, "neither")
    browser.get()
    browser.choose(4, "stop")
    assert b"That was all" in browser.get()[1]
    thread.join(10)
    assert answers == [1.0, 0.0, 0.5, None]
    with pytest.raises(OSError):
        browser.get()


def test_the_page_is_private() -> None:
    asker = PageAsker(tell=lambda text: None)
    browser = Browser(asker.address)
    thread, answers = asking(asker, [question(1)])
    browser.get()
    port = browser.port
    for path, host in (
        ("/", None),
        ("/wrong-secret-wrong-secret/", None),
        (browser.path, "evil.example"),
        (browser.path, f"evil.example:{port}"),
        (browser.path + "../", None),
        (browser.path + "0-left.png", None),
        (browser.path + "1-secret.png", None),
    ):
        assert browser.get(path, host)[0] == 404, path
    for path in ("/answer", "/wrong/answer"):
        assert browser.send("POST", path, "number=1&choice=left")[0] == 404
    assert browser.send("POST", browser.path + "answer", "x" * 2000)[0] == 404
    assert browser.send("POST", browser.path + "answer", "number=1&choice=left",
                        "evil.example")[0] == 404  # fmt: skip
    assert not answers
    headers = browser.send("GET", browser.path)[2]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    browser.choose(1, "left")
    browser.get()
    thread.join(10)
    assert answers == [1.0]


def test_a_person_at_the_page(tmp_path: Path) -> None:
    """The whole way: the scorer asks on the page, a browser answers."""
    ready: list[str] = []
    found: list[np.ndarray] = []

    def score() -> None:
        scorer = HumanChoice(tmp_path / "a.jsonl", open_asker=lambda: PageAsker(ready.append))
        found.append(scorer.score(PICTURES[:3]))

    thread = threading.Thread(target=score)
    thread.start()
    while not ready:
        pass
    browser = Browser(ready[0].removeprefix("choose at "))
    from PIL import Image

    for number in (1, 2, 3):
        assert f"{number} of about 3".encode() in browser.get()[1]
        sides = {
            side: np.array(
                Image.open(io.BytesIO(browser.get(f"{browser.path}{number}-{side}.png")[1]))
            ).mean()
            for side in ("left", "right")
        }
        browser.choose(number, max(sides, key=lambda side: sides[side]))
    browser.get()
    thread.join(10)
    assert (np.diff(found[0]) > 0).all()


def test_the_terminal() -> None:
    shown = io.StringIO()
    asker = TerminalAsker(io.StringIO("x\n1\n2\n0\nq\n"), shown)
    asked = [asker.ask(question(1, "a\x1b[31mcat"))]
    folder = Path(re.search(r"in (/\S+)", shown.getvalue()).group(1))  # type: ignore[union-attr]
    assert (folder / "1.png").exists() and (folder / "2.png").exists()
    asked += [asker.ask(question(n)) for n in range(2, 6)]
    # The fifth finds the input at its end.
    assert asked == [1.0, 0.0, 0.5, None, None]
    assert "\x1b" not in shown.getvalue() and shown.getvalue().count("which is better") == 6
    asker.close()
    assert not folder.exists()
