"""A study in PostgreSQL or a journal: is it what SQLite keeps, with two workers and a killed one?

Starts a server of its own in a temporary folder, reached through a socket there and nowhere else
(`initdb` and `postgres` are looked for; as root it is run as nobody), and tunes two models of the
zoo by random search, whose trials follow from the seed alone. See bench/README.md.

    python bench/postgres.py [--trials 6]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stockpot.tune import StudyStore, open_store
from stockpot.zoo import member, zoo_path

MODELS = ("style-glossy", "content-round")
PROMPTS = ("a large red heart on white background", "a small blue star on navy background")
PLACES = ("/usr/lib/postgresql",)


def program(name: str) -> str:
    """A program of PostgreSQL, on the path or where Debian puts it."""
    found = shutil.which(name)
    if found is None:
        found = next((str(p) for place in PLACES for p in Path(place).glob(f"*/bin/{name}")), None)
    if found is None:
        sys.exit(f"there is no {name}: install PostgreSQL's server")
    return found


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A server with an empty database; what is said to it is `postgresql://…{}…`."""
    folder.chmod(0o755)
    data, sockets = folder / "data", folder / "s"
    for path in (data, sockets):
        path.mkdir(mode=0o700)
    user: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to be root
        for path in (data, sockets):
            os.chown(path, 65534, 65534)
        user = {"user": 65534, "group": 65534, "extra_groups": []}
    subprocess.run([program("initdb"), "-D", data, "-U", "stockpot", "-A", "trust", "-E", "UTF8",
                    "--locale", "C"], check=True, stdout=subprocess.DEVNULL, **user)  # fmt: skip
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [program("postgres"), "-D", data, "-k", sockets, "-c", "listen_addresses="],
            stdout=log, stderr=log, cwd=data, **user,
        )  # fmt: skip
        try:
            import psycopg

            for _ in range(100):
                try:
                    with psycopg.connect(f"host={sockets} user=stockpot dbname=postgres",
                                         autocommit=True) as connection:  # fmt: skip
                        for name in ("one", "two"):
                            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
                    break
                except psycopg.OperationalError:
                    time.sleep(0.1)
            else:
                sys.exit(f"the server does not answer:\n{(folder / 'server.log').read_text()}")
            yield f"postgresql://stockpot@/{{}}?host={sockets}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def facts(store: StudyStore) -> list[tuple[Any, ...]]:
    """All of a study's trials, and what each of their pictures got."""
    marks: dict[str, dict[str, float]] = {}
    for mark in store.book.marks():
        marks.setdefault(mark.candidate, {})[mark.task] = mark.scores["clip"]
    return [
        (t.number, t.params, t.values, t.state.name, t.user_attrs["candidate"],
         sorted(marks[t.user_attrs["candidate"]].items()))
        for t in store.all_trials()
    ]  # fmt: skip


def n_marks(address: str) -> int:
    """How many pictures are drawn; 0 while there is no study."""
    from stockpot.errors import StudyError

    try:
        with open_store(address, create=False) as store:
            return len(store.book.marks())
    except StudyError:
        return 0


def hurt(command: list[str], study: str, half: int) -> tuple[int, int, str]:
    """Start two workers, kill one on the way, and the other one soon after.

    Returns:
        Marks when one was killed and when the other was, and what `tune status` said first in
        between.
    """
    workers = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    while n_marks(study) < half and all(worker.poll() is None for worker in workers):
        time.sleep(0.2)
    workers[0].kill()
    killed_at = n_marks(study)
    told = subprocess.run([sys.executable, "-m", "stockpot", "tune", "status", study],
                          capture_output=True, text=True)  # fmt: skip
    workers[1].kill()
    for worker in workers:
        worker.wait()
    return killed_at, n_marks(study), (told.stdout.splitlines() or [told.stderr])[0]


def main() -> None:
    """Run the study in a file, in a database, and in a database with workers and a kill."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=6)
    given = parser.parse_args()
    lines: list[str] = []

    def judge(good: bool, text: str) -> None:
        lines.append(f"{'ok  ' if good else 'MISS'} {text}")
        print(lines[-1], flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = ", ".join(["search(0, 1, 0.05)"] * 27)
        pool = ", ".join(f"{n}: {json.dumps(str(member(name).path))}"
                         for n, name in zip("ab", MODELS, strict=True))  # fmt: skip
        (folder / "recipe.yaml").write_text(
            f"stockpot: 1\npool: {{{pool}}}\nlet:\n"
            f'  w: blocks("autombw", [{weights}])\nmix:\n  model: lerp(a, b, w)\n'
        )
        (folder / "payloads").mkdir()
        for i, prompt in enumerate(PROMPTS):
            (folder / "payloads" / f"{i}.json").write_text(json.dumps({
                "prompt": prompt, "seed": i, "steps": 8, "width": 32, "height": 32, "n_iter": 3,
                "sampler_name": "Euler", "cfg_scale": 4,
            }))  # fmt: skip

        def command(study: str) -> list[str]:
            return [sys.executable, "-m", "stockpot", "tune", str(folder / "recipe.yaml"),
                    "--payloads", str(folder / "payloads"), "--score", "clip", "--study", study,
                    "--trials", str(given.trials), "--optimiser", "random", "--stop", "0",
                    "--config", str(zoo_path() / "config"), "--json"]  # fmt: skip

        def tune(study: str) -> dict[str, Any]:
            done = subprocess.run(command(study), capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{study}: {done.stderr[-3000:]}")
            return dict(json.loads(done.stdout))

        with server(folder) as address:
            file = str(folder / "study.db")
            in_file = tune(file)
            with open_store(file) as store:
                wanted = facts(store)
            one = address.format("one")
            in_database = tune(one)
            with open_store(one) as store:
                n = sum(len(row[-1]) for row in wanted)
                judge(
                    facts(store) == wanted,
                    f"one worker: {len(wanted)} trials and {n} marks are those of SQLite",
                )
            same = in_database["standings"] == in_file["standings"]
            judge(same, f"the held-out standings are those of SQLite; the best is "
                  f"{in_file['standings'][0]['name']}")  # fmt: skip

            for name, study in (
                ("PostgreSQL", address.format("two")),
                ("a journal", f"journal:{folder / 'study.journal'}"),
            ):
                killed_at, stopped_at, told = hurt(command(study), study, 6 * given.trials // 2)
                judge("running" in told, f"{name}: `tune status` while it runs: {told}")
                resumed = tune(study)
                with open_store(study) as store:
                    found = facts(store)
                judge(found == wanted and resumed["standings"] == in_file["standings"],
                      f"{name}: two workers, one killed at {killed_at} marks, the other at "
                      f"{stopped_at}, resumed: the same trials, marks and standings")  # fmt: skip
                page = folder / name / "tuning.html"
                words = ["tune", "report", study, "-o", str(page.parent)]
                subprocess.run([sys.executable, "-m", "stockpot", *words], capture_output=True)
                judge(page.is_file(), f"{name}: `tune report` writes its page")
            wrong = one.replace("stockpot@", "nobody:secret@").replace("/one?", "/none?")
            told = subprocess.run(command(wrong), capture_output=True, text=True)
            good = told.returncode == 1 and not any(
                word in told.stderr for word in ("Traceback", "secret")
            )
            judge(good, "a database that is not there ends with an error, and no password in it")
            print(told.stderr.strip().splitlines()[-1])
    sys.exit(any(line.startswith("MISS") for line in lines))


if __name__ == "__main__":
    main()
