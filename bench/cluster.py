"""Two Ray nodes on one machine against none: the same bytes? And what does a lost one cost?

    python bench/cluster.py                 # all parts, with Stable Diffusion's shapes at 1/8 width
    python bench/cluster.py --full          # the real widths: 20 files of 2.1 GB
    python bench/cluster.py merge compare --full --distinct 4 --merges mean   # with less room
    python bench/cluster.py merge compare   # some parts: merge, compare, tune, tree

Two raylets, two object stores and two sets of workers, as on two machines that share a folder.

`merge` makes the mean and a TIES merge of 20 models in this process, on two nodes, and on two nodes
of which one is killed (all its processes, SIGKILL) when 40 % are read. `compare` sums 20 models the
same way. The sha256 of all results must be equal. `tune` runs a study whose scorer sleeps with one
worker and with one on each of two nodes, and then once more while a worker is killed three times.
`tree` grows a tree of searches over four models of the zoo by the command, in one process, on two
nodes, and on two nodes while a worker is killed twice: the same candidates and the same recipe.

Prints one line of JSON a part; ends with 1 where something is not as it must be. Needs Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import DTYPES, TensorInfo, encode_header, in_file_order, open_checkpoint
from stockpot.cluster import open_cluster
from stockpot.compare import compare, save_comparison
from stockpot.engine import Progress, Settings, Stop, merge
from stockpot.layouts import get_layout
from stockpot.recipes import make_recipe, read_recipe
from stockpot.tune import Examiner, KeptMark, examine_on_crew, open_store, run_search
from stockpot.zoo import member, zoo_path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
import nodes as ray_nodes  # noqa: E402

N_MODELS = 20
KILL_AT = 0.4
MERGES = {"mean": "mean({all})", "ties": "ties({all}, keep=0.3)"}
NOISE = 1 << 24
GROWN = ("style-glossy", "content-warm", "style-outline", "content-round")
PROMPTS = ("a large red heart", "a large blue star", "a small green circle", "a large orange moon")


def make_models(folder: Path, narrow: int, distinct: int = N_MODELS) -> dict[str, str]:
    """Checkpoints with Stable Diffusion's keys; lengths above 127 are divided."""
    infos = {}
    for key, spec in get_layout("sd1").specs.items():
        if spec.optional or spec.role == "counter":
            continue
        shape = tuple(n // narrow if 128 <= n < 40_000 else n for n in spec.shape)
        infos[key] = TensorInfo(key, DTYPES["F16"], shape)
    infos = in_file_order(infos)
    header = encode_header(infos, {"format": "pt"})
    base = np.random.default_rng(7).standard_normal(NOISE, np.float32) * np.float32(0.03)
    delta = np.random.default_rng(8).standard_normal(NOISE, np.float32) * np.float32(0.002)
    paths = {}
    for number in range(N_MODELS):
        path = folder / f"m{number:02}.safetensors"
        paths[path.stem] = str(path)
        size = len(header) + sum(info.n_bytes for info in infos.values())
        if path.exists() and path.stat().st_size == size:
            continue
        if number >= distinct:
            os.link(folder / f"m{number % distinct:02}.safetensors", path)
            continue
        values = memoryview((base + np.roll(delta, 7_368_787 * number)).astype(np.float16)).cast(
            "B"
        )
        with path.open("wb") as file:
            file.write(header)
            for i, info in enumerate(infos.values()):
                at, rest = 2 * (i * 15_485_863 % NOISE), info.n_bytes
                while rest:
                    piece = values[at : at + rest]
                    file.write(piece)
                    rest, at = rest - piece.nbytes, 0
    return paths


def sha256(path: Path) -> str:
    """Hash a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Peak:
    """The highest anonymous memory that any worker had."""

    def __init__(self) -> None:
        self.n_bytes, self._ended = 0, threading.Event()

    def __enter__(self) -> Peak:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            for pid in ray_nodes.workers():
                try:
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                except OSError:
                    continue
                found = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
                self.n_bytes = max(self.n_bytes, *(1024 * kib for kib in found), 0)


class Killer:
    """Progress that kills a node at some point, once."""

    def __init__(self, nodes: ray_nodes.Nodes | None, node: Any) -> None:
        self._nodes, self._node, self.at = nodes, node, 0.0

    def __call__(self, progress: Progress) -> None:
        done = progress.done_bytes / max(1, progress.total_bytes)
        if self._nodes is not None and progress.stage != "checking" and done >= KILL_AT:
            nodes, self._nodes = self._nodes, None
            self.at = done
            threading.Thread(target=nodes.remove, args=(self._node,)).start()


@contextmanager
def crew_of_two() -> Iterator[tuple[Any, ray_nodes.Nodes, Any, list[str]]]:
    """A crew on two nodes, and the second of them to be killed."""
    told: list[str] = []
    with ray_nodes.start_nodes(names=("first",)) as nodes:
        second = nodes.add("second")
        with open_cluster(nodes.address, tell=told.append) as crew:
            yield crew, nodes, second, told


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    work()
    return round(time.perf_counter() - start, 2)


def run_merges(
    folder: Path, paths: dict[str, str], memory: int, names: list[str]
) -> list[dict[str, Any]]:
    """The same merges everywhere."""
    found = []
    for name in names:
        text = MERGES[name]
        recipe = make_recipe(text.format(all=", ".join(paths)), paths)

        def one(output: str, recipe: Any = recipe, progress: Any = None, **settings: Any) -> str:
            path = folder / f"{output}.safetensors"
            merge(recipe, path, progress=progress,
                  settings=Settings(memory=memory, overwrite=True, **settings))  # fmt: skip
            return sha256(path)

        told: dict[str, Any] = {"what": f"merge: {name} of {N_MODELS}", "sha256": {}}
        start = time.perf_counter()
        told["sha256"]["this process"] = one("alone", threads=2)
        told["s_alone_2_threads"] = round(time.perf_counter() - start, 2)
        with crew_of_two() as (crew, nodes, second, lines):
            with Peak() as peak:
                start = time.perf_counter()
                told["sha256"]["two nodes"] = one("two", crew=crew)
                told["s_two_nodes"] = round(time.perf_counter() - start, 2)
            told["worker_peak_mb"] = round(peak.n_bytes / 1e6)
            told["memory_allowed_mb"] = round(memory / 1e6)
            killer = Killer(nodes, second)
            start = time.perf_counter()
            told["sha256"]["one of two killed"] = one("killed", progress=killer, crew=crew)
            told["s_one_killed"] = round(time.perf_counter() - start, 2)
            told["killed_at"], told["said"] = round(killer.at, 2), lines
        found.append(_judged(told))
    return found


def run_compare(folder: Path, paths: dict[str, str], memory: int) -> list[dict[str, Any]]:
    """The same comparison everywhere."""

    def one(output: str, progress: Any = None, **options: Any) -> str:
        sources = {name: open_checkpoint(path) for name, path in paths.items()}
        try:
            result = compare(sources, memory=memory, progress=progress, stop=Stop(), **options)
        finally:
            for source in sources.values():
                source.close()
        save_comparison(result, folder / output, overwrite=True)
        return sha256(folder / output)

    told: dict[str, Any] = {"what": f"compare: {N_MODELS} models", "sha256": {}}
    start = time.perf_counter()
    told["sha256"]["this process"] = one("alone.safetensors", threads=2)
    told["s_alone_2_threads"] = round(time.perf_counter() - start, 2)
    with crew_of_two() as (crew, nodes, second, lines):
        start = time.perf_counter()
        told["sha256"]["two nodes"] = one("two.safetensors", crew=crew)
        told["s_two_nodes"] = round(time.perf_counter() - start, 2)
        killer = Killer(nodes, second)
        start = time.perf_counter()
        told["sha256"]["one of two killed"] = one("killed.safetensors", killer, crew=crew)
        told["s_one_killed"] = round(time.perf_counter() - start, 2)
        told["killed_at"], told["said"] = round(killer.at, 2), lines
    return [_judged(told)]


def open_surrogate(folder: str, sleep: float) -> Examiner:
    """A scorer that sleeps, opened where a worker runs."""
    sys.path.insert(0, folder)
    import surrogate

    return surrogate.examiner(sleep)  # type: ignore[no-any-return]


def run_tune(folder: Path, n_trials: int, sleep: float) -> list[dict[str, Any]]:
    """A study with one worker, with one on each of two nodes, and with three that are killed."""
    tests = str(Path(__file__).parents[1] / "tests" / "tune")
    opening = partial(open_surrogate, tests, sleep)
    sys.path.insert(0, tests)
    import surrogate

    def study(name: str, names: tuple[str, ...], kills: tuple[int, ...] = ()) -> dict[str, Any]:
        path = folder / f"{name}.db"
        path.unlink(missing_ok=True)

        def use(examiner: Examiner) -> None:
            with open_store(path) as store:
                with surrogate.make_search(store, n_trials, stop_p=None) as search:
                    run_search(search, examiner)

        def marks() -> list[KeptMark]:
            with open_store(path) as store:
                return store.book.marks()

        def killer() -> None:
            for n_marks in kills:
                while not path.exists() or len(marks()) < n_marks:
                    time.sleep(0.1)
                ray_nodes.kill(ray_nodes.workers()[0])

        told: list[str] = []
        with ray_nodes.start_nodes(names=names) as nodes:
            with open_cluster(nodes.address, tell=told.append) as crew:
                thread = threading.Thread(target=killer)
                thread.start()
                seconds = timed(lambda: examine_on_crew(crew, opening, use))
                thread.join()
        with open_store(path) as store:
            trials = store.all_trials()
        found = [(mark.candidate, mark.task) for mark in marks()]
        candidates = {trial.user_attrs["candidate"] for trial in trials}
        return {
            "seconds": seconds,
            "trials": len(trials),
            "complete": sum(trial.state.name == "COMPLETE" for trial in trials),
            "pictures": len(found),
            "each_once": len(set(found)) == len(found) == surrogate.N_TASKS * len(candidates),
            "lost_workers": sum("was lost" in line for line in told),
        }

    one = study("one", ("first",))
    two = study("two", ("first", "second"))
    killed = study("killed", ("first", "second"), (20, 60, 100))
    ratio = round(two["seconds"] / one["seconds"], 3)
    same = {
        (found["trials"], found["complete"], found["each_once"]) for found in (one, two, killed)
    }
    n_all = n_trials + len(surrogate.baselines())
    ok = ratio <= 0.65 and same == {(n_all, n_all, True)} and killed["lost_workers"] >= 3
    return [{"what": f"tune: {n_all} candidates, {surrogate.N_TASKS} pictures of {sleep} s each",
             "one_worker": one, "two_nodes": two, "ratio": ratio, "three_killed": killed,
             "ok": ok}]  # fmt: skip


def run_tree(folder: Path, n_trials: int) -> list[dict[str, Any]]:
    """A tree of searches in one process, on two nodes, and with workers that are killed."""
    payloads = folder / "payloads"
    payloads.mkdir(exist_ok=True)
    for number, prompt in enumerate(PROMPTS):
        request = {"prompt": f"flat art, {prompt}", "seed": number, "steps": 4, "cfg_scale": 4.0,
                   "width": 32, "height": 32, "sampler_name": "Euler"}  # fmt: skip
        (payloads / f"{number}.json").write_text(json.dumps(request))

    def grow(name: str, kills: tuple[int, ...] = (), address: str = "") -> dict[str, Any]:
        study, recipe = folder / f"tree-{name}.db", folder / f"tree-{name}.yaml"
        study.unlink(missing_ok=True)
        words = [sys.executable, "-m", "stockpot", "tune-tree",
                 *(str(member(model).path) for model in GROWN), "--payloads", str(payloads),
                 "--score", "clip", "--space", "groups", "--optimiser", "random", "--trials",
                 str(n_trials), "--finalists", "1", "--config", str(zoo_path() / "config"),
                 "--study", str(study), "--overwrite", "-o", str(recipe)]  # fmt: skip
        words += ["--cluster", address] if address else []
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True)  # fmt: skip
        assert process.stderr is not None
        said = []
        due = list(kills)
        for line in process.stderr:
            said.append(line)
            n_tried = sum(text.startswith("trial ") for text in said)
            if due and n_tried >= due[0] and (found := ray_nodes.workers()):
                ray_nodes.kill(found[len(found) - 1])
                del due[0]
        if process.wait():
            raise SystemExit("".join(said))
        seconds = round(time.perf_counter() - start, 2)
        with open_store(study, create=False) as store:
            marks = [(mark.candidate, mark.task) for mark in store.book.marks()]
        text = replace(read_recipe(recipe), origin=None).to_yaml()
        return {
            "seconds": seconds,
            "candidates": len({candidate for candidate, _ in marks}),
            "pictures": len(marks),
            "each_once": len(set(marks)) == len(marks),
            "lost_workers": sum("was lost" in line for line in said),
            "recipe": hashlib.sha256(text.encode()).hexdigest()[:16],
        }

    here = grow("here")
    with ray_nodes.start_nodes() as nodes:
        there = grow("there", address=nodes.address)
    with ray_nodes.start_nodes() as nodes:
        killed = grow("killed", (4, 12), address=nodes.address)
    facts = {tuple(one[name] for name in ("candidates", "pictures", "each_once", "recipe"))
             for one in (here, there, killed)}  # fmt: skip
    ok = len(facts) == 1 and here["each_once"] and killed["lost_workers"] >= 2
    return [{"what": f"tree: {len(GROWN)} models, {n_trials} candidates a node", "here": here,
             "two_nodes": there, "two_killed": killed, "ok": ok}]  # fmt: skip


def _judged(told: dict[str, Any]) -> dict[str, Any]:
    hashes = set(told["sha256"].values())
    told["ok"] = len(hashes) == 1 and told["killed_at"] > 0
    told["sha256"] = hashes.pop()[:16] if len(hashes) == 1 else told["sha256"]
    return told


def main() -> None:
    """Run the parts; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["merge", "compare", "tune", "tree"])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--distinct", type=int, default=N_MODELS,
                        help="so many files; the other names are links to them")  # fmt: skip
    parser.add_argument("--merges", default=",".join(MERGES))
    parser.add_argument("--narrow", type=int, default=8)
    parser.add_argument("--memory", type=int, default=512, help="MiB")
    parser.add_argument("--trials", type=int, default=27)
    parser.add_argument("--sleep", type=float, default=0.5)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "stockpot-bench")
    parser.add_argument("--clean", action="store_true")
    options = parser.parse_args()
    narrow = 1 if options.full else options.narrow
    folder = options.work / f"cluster-{narrow}-{options.distinct}"
    folder.mkdir(parents=True, exist_ok=True)
    ok = True
    try:
        for part in options.parts:
            searches = part in ("tune", "tree")
            paths = {} if searches else make_models(folder, narrow, options.distinct)
            if part == "merge":
                names = options.merges.split(",")
                results = run_merges(folder, paths, options.memory << 20, names)
            elif part == "compare":
                results = run_compare(folder, paths, options.memory << 20)
            elif part == "tree":
                results = run_tree(folder, options.trials)
            else:
                results = run_tune(folder, options.trials, options.sleep)
            for result in results:
                ok &= bool(result["ok"])
                print(json.dumps(result), flush=True)
    finally:
        if options.clean:
            shutil.rmtree(folder)
    sys.stdout.flush()
    os._exit(0 if ok else 1)  # threads that kill nodes need not be waited for


if __name__ == "__main__":
    main()
