"""Programs as scorers: what they get, and what is said when they fail."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stockpot.errors import ScorerError
from stockpot.scores import CommandScorer

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3)).astype(np.uint8)


def program(text: str, **options: float) -> CommandScorer:
    return CommandScorer([sys.executable, "-c", text], name="mine", **options)  # type: ignore[arg-type]


def test_it_gets_the_pictures_themselves_and_the_words(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    text = (
        "import sys, shutil, pathlib\n"
        f"out = pathlib.Path({str(seen)!r}); out.mkdir()\n"
        "for i, line in enumerate(sys.stdin):\n"
        "    path, prompt = line.rstrip('\\n').split('\\t')\n"
        "    shutil.copy(path, out / f'{i}.png'); (out / f'{i}.txt').write_text(prompt)\n"
        "    print(' 1.5e0 ')\n"
    )
    prompts = ["a\tcat\n; rm -rf /", "$(id) `id`", ""]
    scores = program(text).score(PICTURES, score_prompts=prompts)
    assert scores.tolist() == [1.5] * 3
    from PIL import Image

    for i in range(3):
        assert np.array_equal(np.array(Image.open(seen / f"{i}.png")), PICTURES[i])
    words = [(seen / f"{i}.txt").read_text() for i in range(3)]
    # Nothing went through a shell.
    assert words == ["a cat ; rm -rf /", "$(id) `id`", ""]


def test_its_files_are_gone_afterwards() -> None:
    text = "import sys\nlines = sys.stdin.readlines()\nprint(lines[0].split()[0], file=sys.stderr)"
    with pytest.raises(ScorerError):
        program(text).score(PICTURES, ["x"] * 3)
    kept = program(text + "\nsys.exit(3)")
    with pytest.raises(ScorerError, match="ended with 3; its last words: ") as caught:
        kept.score(PICTURES, ["x"] * 3)
    path = str(caught.value).split("its last words: ")[1]
    assert path.endswith(".png") and not os.path.exists(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("print(1)", "one number a picture, 3 of them, but printed 1"),
        ("print('1\\n2\\n3\\n4')", "3 of them, but printed 4"),
        ("pass", "but printed 0"),
        ("print('1\\nhello there\\n3')", "one number a line, but line 2 is 'hello there'"),
        ("print('1 2\\n3')", "line 1 is '1 2'"),
        ("print('1\\nnan\\n3')", "finite numbers, but gave nan for picture 1"),
        ("print('1\\n2\\ninf')", "gave inf for picture 2"),
        ("import os; os.write(1, b'\\xff\\xfe\\n')", "line 1 is"),
        ("raise SystemExit('no model')", "ended with 1; its last words: no model"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9; its last words: none"),
        ("import sys\nwhile True: sys.stdout.write('1' * 65536)", "printed over 1000000 bytes"),
    ],
)
def test_wrong_answers_are_told(text: str, said: str) -> None:
    with pytest.raises(ScorerError, match=said):
        program(text).score(PICTURES, ["x"] * 3)


def test_it_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time, pathlib\ntime.sleep(2)\npathlib.Path({str(alive)!r}).touch()"
    text = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print('waiting', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    )
    start = time.monotonic()
    with pytest.raises(ScorerError, match="done within 1 s a batch, .* last words: waiting"):
        program(text, timeout_s=1).score(PICTURES, ["x"] * 3)
    assert time.monotonic() - start < 10
    time.sleep(2)
    assert not alive.exists()


def test_what_cannot_be_started_is_told() -> None:
    with pytest.raises(ScorerError, match="'no-such-program' .* cannot be started: No such file"):
        CommandScorer("no-such-program -x").score(PICTURES, ["x"] * 3)
    for command in ("", "  ", []):
        with pytest.raises(ScorerError, match="must name a program"):
            CommandScorer(command)
    with pytest.raises(ScorerError, match="cannot be split: No closing quotation"):
        CommandScorer("a 'b")


def test_batches() -> None:
    text = "import sys\nn = len(sys.stdin.readlines())\nprint('\\n'.join([str(n)] * n))"
    assert program(text, batch_size=2).score(PICTURES, ["x"] * 3).tolist() == [2, 2, 1]
