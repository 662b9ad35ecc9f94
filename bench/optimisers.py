"""How many evaluations does an optimiser need to reach what random search has at 70?

Surrogates are Gaussian processes fitted to real AutoMBW histories, one sample of the posterior a
seed; controls are functions that no Gaussian process made. Every optimiser of `stockpot tune` is
run on them, and Hyperactive's Bayesian optimiser, LIPO and hill climbing as published, in a
virtual environment of their own. What was run is kept, so that it can be run in pieces. See
bench/README.md.

    python bench/optimisers.py --work DIR --data ../shared/data/autombw
    python bench/optimisers.py --work DIR --data ../shared/data/autombw --fit
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution

from stockpot.tune import make_sampler

BLOCKS = 27
STEP = 0.1
NUGGET = 0.005
"""What 0.1 of one block changes the score by, in the histories' units; see the facts in docs."""
REFERENCE = 70
LENGTHS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
SPREADS = (0.0, 0.5, 1.0)
SIGNALS = np.geomspace(0.008, 0.4, 12)

# Group: lengthscale, spread of single blocks' lengthscales (of its logarithm), conditioned or not.
SURROGATES = {
    "one length": (1.0, 0.0, True),
    "own lengths": (0.7, 0.5, True),
    "smooth": (8.0, 0.0, False),
}
CONTROLS = ("network", "interactions", "plateau", "stairs")
OURS = ("auto", "gp", "tpe", "cmaes", "qmc")
PUBLISHED = ("bayes xi=0.03", "bayes xi=0.3", "bayes xi=1", "lipo", "hill climbing")
DEFAULT = ("random", "auto", "tpe", "cmaes", "qmc", *PUBLISHED)
PACKAGES = ("hyperactive==4.5.0", "gradient-free-optimizers==1.3.0")

# The published optimisers ask over a pipe. Two of their loops are replaced by the same thing
# without a loop: the list of all positions of the lattice (a million calls that filter nothing
# where there are no constraints) and drawing some of them (with replacement here).
PEER = """
import json, os, sys, warnings
pipe = os.fdopen(os.dup(1), "w", buffering=1); os.dup2(2, 1)
warnings.simplefilter("ignore")
import random
import numpy as np
from hyperactive import Hyperactive
from hyperactive.optimizers import BayesianOptimizer, HillClimbingOptimizer, LipschitzOptimizer
from gradient_free_optimizers.optimizers.smb_opt.smbo import SMBO
def lattice(self):
    axes = self.sampler.get_pos_space()
    return np.array(np.meshgrid(*axes), dtype=np.uint8).T.reshape(-1, len(axes))
def some(self, positions):
    n = self.sampling["random"]
    if len(positions) <= n:
        return positions
    return positions[np.random.randint(0, len(positions), n)]
SMBO._all_possible_pos, SMBO.random_sampling = lattice, some
for line in sys.stdin:
    job = json.loads(line)
    keys = [str(i) for i in range(job["blocks"])]
    space = {key: [round(i * job["step"], 8) for i in range(job["levels"])] for key in keys}
    model = dict(max_sample_size=10_000_000, sampling={"random": job["sampled"]})
    optimiser = {"bayes": lambda: BayesianOptimizer(xi=job["xi"], **model),
                 "lipo": lambda: LipschitzOptimizer(**model),
                 "hill climbing": HillClimbingOptimizer}[job["optimiser"]]()
    random.seed(job["seed"]); np.random.seed(job["seed"])
    def objective(candidate):
        print(json.dumps([float(candidate[key]) for key in keys]), file=pipe)
        return float(sys.stdin.readline())
    search = Hyperactive(verbosity=False)
    search.add_search(objective, space, n_iter=job["n"], optimizer=optimiser, memory=False,
                      random_state=job["seed"], initialize={"random": 2})
    search.run()
    print("done", file=pipe)
"""


@dataclass(frozen=True)
class History:
    """Weights and scores of one real search."""

    name: str
    points: np.ndarray
    scores: np.ndarray


def read_histories(folder: Path) -> list[History]:
    """All histories in a folder, by name."""
    histories = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            rows = [row for row in csv.reader(file) if row]
        table = np.array([[float(cell) for cell in row[: BLOCKS + 1]] for row in rows[1:]])
        histories.append(History(path.name, table[:, :BLOCKS], table[:, BLOCKS]))
    if not histories:
        raise SystemExit(f"no histories (*.csv) in {folder}")
    return histories


def kernel(a: np.ndarray, b: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Matérn 5/2."""
    cross = (a * a) @ inverse
    squared = np.maximum(cross[:, None] + (b * b) @ inverse - 2 * (a * inverse) @ b.T, 0)
    root = np.sqrt(5 * squared)
    return (1 + root + root**2 / 3) * np.exp(-root)


def log_evidence(history: History, inverse: np.ndarray) -> np.ndarray:
    """Log marginal likelihood for each of SIGNALS, the mean integrated out, the nugget known."""
    values, vectors = np.linalg.eigh(kernel(history.points, history.points, inverse))
    ones, scores = vectors.T @ np.ones(len(values)), vectors.T @ history.scores
    out = []
    for signal in SIGNALS:
        variance = signal**2 * np.maximum(values, 0) + NUGGET**2
        weight = (ones**2 / variance).sum()
        residual = scores - (ones * scores / variance).sum() / weight * ones
        out.append(
            -0.5 * ((residual**2 / variance).sum() + np.log(variance).sum() + np.log(weight))
        )
    return np.array(out)


def print_fit(histories: list[History], n_draws: int = 100) -> None:
    """The evidence of lengthscales over all histories; own ones by averaging over draws."""
    rng = np.random.default_rng(0)
    print("log evidence, all histories; columns: lengthscale (all blocks, or their median)")
    print(f"{'spread':>8s}" + "".join(f"{length:9.1f}" for length in LENGTHS))
    for spread in SPREADS:
        row = []
        for length in LENGTHS:
            total = 0.0
            for history in histories:
                draws = rng.normal(size=(n_draws if spread else 1, BLOCKS))
                inverses = np.exp(-2 * (np.log(length) + spread * draws))
                logs = np.array([log_evidence(history, inverse) for inverse in inverses])
                total += logs.max() + np.log(np.exp(logs - logs.max()).mean())
            row.append(total)
        print(f"{spread:8.1f}" + "".join(f"{value:9.1f}" for value in row), flush=True)


class Function:
    """Something to maximise, in standard deviations of its values at random points.

    `noise` is rough but not random: the same point always has the same, as with fixed seeds.
    """

    def __init__(
        self, key: str, raw: Callable[[np.ndarray], np.ndarray], noise: float | None
    ) -> None:
        self.key, self._raw = key, raw
        self.rng = np.random.default_rng(seed_of(key))
        values = raw(self.rng.integers(0, 11, (3000, BLOCKS)) * STEP)
        self._mean, self._sd = values.mean(), values.std()
        self.noise = NUGGET / self._sd if noise is None else noise

    def true(self, points: np.ndarray) -> np.ndarray:
        """Values without noise."""
        return (self._raw(np.atleast_2d(points)) - self._mean) / self._sd

    def score(self, points: np.ndarray) -> np.ndarray:
        """What an optimiser sees."""
        points = np.atleast_2d(points)
        rough = [
            np.random.default_rng(seed_of(self.key + str(np.round(x * 1000).astype(int)))).normal()
            for x in points
        ]
        return self.true(points) + self.noise * np.array(rough)


def seed_of(text: str) -> int:
    """A seed from words, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def surrogate(histories: list[History], group: str, seed: int, n_features: int = 1500) -> Function:
    """A sample of the process that fits a history, through random Fourier features."""
    length, spread, conditioned = SURROGATES[group]
    history = histories[seed % len(histories)]
    rng = np.random.default_rng(seed_of(f"{group} {seed}"))
    draws = rng.normal(size=(100 if spread else 1, BLOCKS))
    inverses = np.exp(-2 * (np.log(length) + spread * draws))
    logs = np.array([log_evidence(history, inverse) for inverse in inverses])
    chances = np.exp(logs - logs.max()).ravel()
    pick = int(rng.choice(len(chances), p=chances / chances.sum()))
    inverse, signal = inverses[pick // len(SIGNALS)], SIGNALS[pick % len(SIGNALS)]
    # Matérn 5/2's spectrum is Student's t with 5 degrees of freedom.
    waves = rng.normal(size=(n_features, BLOCKS)) * np.sqrt(inverse)
    waves /= np.sqrt(rng.chisquare(5, size=(n_features, 1)) / 5)
    phases = rng.uniform(0, 2 * np.pi, n_features)
    heights = rng.normal(size=n_features) * signal * np.sqrt(2 / n_features)

    def prior(x: np.ndarray) -> np.ndarray:
        return np.cos(x @ waves.T + phases) @ heights

    n = len(history.scores)
    weights = np.zeros(n)
    if conditioned:
        # Matheron's rule: a sample of the prior, moved by what the history says it missed.
        k = signal**2 * kernel(history.points, history.points, inverse) + NUGGET**2 * np.eye(n)
        ones = np.linalg.solve(k, np.ones(n))
        mean = (ones @ history.scores) / ones.sum()
        rough = NUGGET * rng.normal(size=n)
        weights = np.linalg.solve(k, history.scores - mean - prior(history.points) - rough)

    def raw(x: np.ndarray) -> np.ndarray:
        return prior(x) + signal**2 * kernel(x, history.points, inverse) @ weights

    return Function(f"{group} {seed}", raw, None)


def control(kind: str, seed: int) -> Function:
    """A function that no Gaussian process made, with roughness of 0.3 standard deviations."""
    rng = np.random.default_rng(seed_of(f"{kind} {seed}"))
    top, weights = rng.uniform(0, 1, BLOCKS), rng.gamma(1.0, 1.0, BLOCKS)
    if kind == "network":
        first, second = rng.normal(size=(BLOCKS, 12)), rng.normal(size=12)
        shift = rng.normal(size=12)

        def raw(x: np.ndarray) -> np.ndarray:
            return np.tanh((x - 0.5) @ first + shift) @ second
    elif kind == "interactions":
        pairs = rng.normal(size=(BLOCKS, BLOCKS)) * (rng.random((BLOCKS, BLOCKS)) < 0.1)

        def raw(x: np.ndarray) -> np.ndarray:
            centred = x - 0.5
            return -((x - top) ** 2) @ weights + ((centred @ pairs) * centred).sum(1)
    elif kind == "plateau":
        # The top is near a corner: 0.5 everywhere would else be better than any random point.
        top = np.where(rng.random(BLOCKS) < 0.5, 0.15 * top, 1 - 0.15 * top)
        turn = np.linalg.qr(rng.normal(size=(BLOCKS, BLOCKS)))[0]

        def raw(x: np.ndarray) -> np.ndarray:
            # Flat for about half of the cube.
            return -np.minimum((((x - top) @ turn) ** 2) @ weights, floor)

        floor = np.inf
        floor = -float(np.median(raw(rng.random((2000, BLOCKS)))))
    else:
        edges = np.sort(rng.uniform(0.1, 0.9, (2, BLOCKS)), axis=0)
        heights = rng.normal(size=(2, BLOCKS))

        def raw(x: np.ndarray) -> np.ndarray:
            return (x > edges[0]) @ heights[0] + (x > edges[1]) @ heights[1]

    return Function(f"{kind} {seed}", raw, 0.3)


def incumbent(true: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """After each evaluation, the true value of the point with the best score so far."""
    best = np.maximum.accumulate(scores)
    # The first that has it: a new incumbent has to be better.
    return true[[int(np.argmax(scores[: i + 1] == best[i])) for i in range(len(scores))]]


def random_search(function: Function, n: int, n_runs: int = 30) -> np.ndarray:
    """The mean incumbent of random searches."""
    runs = []
    for _ in range(n_runs):
        points = function.rng.integers(0, 11, (n, BLOCKS)) * STEP
        true = function.true(points)
        # Roughness is independent between points, so a hash a point is not needed here.
        scores = true + function.noise * function.rng.normal(size=n)
        runs.append(incumbent(true, scores))
    return np.array(runs)


def run_ours(name: str, function: Function, seed: int, n: int) -> np.ndarray:
    """One of stockpot's optimisers, after both models alone and 0.5, which count."""
    ranges: dict[str, Any] = {f"{i:02d}": FloatDistribution(0, 1, step=STEP) for i in range(BLOCKS)}
    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, seed))
    for value in (0.0, 1.0, 0.5):
        study.enqueue_trial(dict.fromkeys(ranges, value))
    points, scores = [], []
    for _ in range(n):
        trial = study.ask(ranges)
        points.append([trial.params[key] for key in ranges])
        scores.append(float(function.score(np.array(points[-1]))[0]))
        study.tell(trial, scores[-1])
    return incumbent(function.true(np.array(points)), np.array(scores))


class Peer:
    """The published optimisers, in a process of their own."""

    def __init__(self, work: Path, sampled: int) -> None:
        home = work / "hyperactive"
        python = home / "bin" / "python"
        if not (home / "ready").exists():
            venv.create(home, with_pip=True, clear=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
            (home / "ready").touch()
        self._sampled = sampled
        self._process = subprocess.Popen(
            [python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, bufsize=1,
        )  # fmt: skip

    def run(self, name: str, function: Function, seed: int, n: int) -> np.ndarray:
        """One search, with the tool's settings: two random points first, then the lattice."""
        kind, _, xi = name.partition(" xi=")
        job = {"optimiser": kind, "xi": float(xi or 0), "seed": seed, "n": n, "blocks": BLOCKS,
               "step": STEP, "levels": 11, "sampled": self._sampled}  # fmt: skip
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        points, scores = [], []
        while (line := self._process.stdout.readline().strip()) != "done":
            if not line:
                raise RuntimeError(f"{name} stopped on {function.key}")
            points.append(json.loads(line))
            scores.append(float(function.score(np.array(points[-1]))[0]))
            self._process.stdin.write(f"{scores[-1]!r}\n")
        return incumbent(function.true(np.array(points)), np.array(scores))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def first_at(curve: np.ndarray, target: float) -> float:
    """The number of evaluations after which a curve is at the target, or infinity."""
    reached = np.nonzero(curve >= target)[0]
    return float(reached[0] + 1) if len(reached) else np.inf


def print_table(kept: dict[str, Any], groups: list[str], names: list[str], seeds: int) -> None:
    """What is known, one line a group and optimiser."""
    print(
        f"{'':15s}{'':16s}{'seeds':>6s}{'reached':>9s}{'quartiles':>13s}{'at 20':>8s}{'at 40':>8s}"
    )
    for title, members in (
        *((group, [group]) for group in groups),
        ("all surrogates", [g for g in groups if g in SURROGATES]),
        ("all controls", [g for g in groups if g in CONTROLS]),
    ):
        for name in names:
            runs = [kept[key] for group in members for seed in range(seeds)
                    if (key := f"{group}|{name}|{seed}") in kept]  # fmt: skip
            # A median over some of the groups would be of other functions than the line above.
            if not runs or (len(members) > 1 and len(runs) < seeds * len(members)):
                continue
            counts = np.array([first if (first := run["first"]) else np.inf for run in runs])
            low, middle, high = np.percentile(counts, [25, 50, 75], method="inverted_cdf")
            n = max(len(run["curve"]) for run in runs)
            said = [f"{x:.0f}" if np.isfinite(x) else f">{n}" for x in (middle, low, high)]
            means = [np.mean([run["curve"][i - 1] for run in runs]) for i in (20, min(40, n))]
            print(f"{title:15s}{name:16s}{len(runs):6d}{said[0]:>9s}{said[1] + '–' + said[2]:>13s}"
                  f"{means[0]:8.2f}{means[1]:8.2f}")  # fmt: skip
        print()


def main() -> None:
    """Run what is missing, print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for results")
    parser.add_argument("--data", type=Path, required=True, help="folder of AutoMBW's CSV files")
    parser.add_argument("--fit", action="store_true", help="print the lengthscales' evidence, end")
    parser.add_argument("--groups", default=",".join((*SURROGATES, *CONTROLS)))
    parser.add_argument("--optimisers", default=",".join(DEFAULT), help=f"also: {OURS}")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--sampled", type=int, default=2000, help="lattice points a step of bayes")
    parser.add_argument("--print", action="store_true", help="only what was run before")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    histories = read_histories(args.data)
    if args.fit:
        print_fit(histories)
        return
    groups, names = args.groups.split(","), args.optimisers.split(",")
    path = args.work / "optimisers.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    peer: Peer | None = None
    for name in [] if args.print else names:
        for group in groups:
            for seed in range(args.seeds):
                key = f"{group}|{name}|{seed}"
                if key in kept:
                    continue
                make = surrogate if group in SURROGATES else None
                function = make(histories, group, seed) if make else control(group, seed)
                drawn = random_search(function, REFERENCE)
                target = float(drawn[:, -1].mean())
                if name == "random":
                    curve = drawn[0]
                elif name in PUBLISHED:
                    peer = peer or Peer(args.work, args.sampled)
                    curve = peer.run(name, function, seed, args.evaluations)
                else:
                    curve = run_ours(name, function, seed, args.evaluations)
                first = first_at(curve, target)
                kept[key] = {
                    "first": first if np.isfinite(first) else None,
                    "target": target,
                    "noise": float(function.noise),
                    "curve": [round(float(value), 4) for value in curve],
                }
                part = path.with_suffix(".part")
                part.write_text(json.dumps(kept))
                part.replace(path)
            print(f"{group}, {name}", file=sys.stderr, flush=True)
    if peer:
        peer.close()
    for group in groups:
        runs = [run for key, run in kept.items() if key.split("|")[0] == group]
        if runs:
            target, rough = (np.mean([run[key] for run in runs]) for key in ("target", "noise"))
            print(f"{group:15s}random has {target:.2f} SD at {REFERENCE}; roughness {rough:.2f} SD")
    print_table(kept, groups, names, args.seeds)


if __name__ == "__main__":
    main()
