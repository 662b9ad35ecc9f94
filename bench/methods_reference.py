"""Do methods agree with independent implementations?

Runs each method that sd-mecha or mergekit has too on the same tensors of doubles, there in a
virtual environment of its own, and prints the largest difference, with the reason where we differ
on purpose. See bench/README.md.

    python bench/methods_reference.py --work /big/disk/bench
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
from merge_speed import peer_python

from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
from stockpot.engine import merge_in_memory
from stockpot.recipes import make_recipe

# Ours, theirs (over the tensors base, a, b, c), and why they may differ.
MECHA = {
    "slerp": ("slerp(a, b, 0.3)", "linear.slerp.__wrapped__(a, b, T(0.3))", ""),
    "ties": (
        "ties(base, a, b, c, keep=0.2)",
        "base + ties.ties_sum.__wrapped__(*deltas, k=0.2, vote_sgn=True)",
        "the largest 20 %, rounded up; sd-mecha rounds down, its threshold to single precision",
    ),
    "ties, all kept": (
        "ties(base, a, b, c, keep=1)",
        "base + ties.ties_sum.__wrapped__(*deltas, k=1.0, vote_sgn=True)",
        "sd-mecha's threshold, rounded to single precision, drops the smallest element",
    ),
    "ties_soup": (
        "ties_soup(base, a, b, c)",
        "base + ties.ties_sum.__wrapped__(*deltas, k=1.0, vote_sgn=False)",
        "sd-mecha's threshold, rounded to single precision, drops the smallest element",
    ),
    "geometric_median": (
        "geometric_median(a, b, c)",
        "ties.geometric_median.__wrapped__(a, b, c)",
        "",
    ),
    "model_stock": (
        "model_stock(base, a, b, c)",
        "base + ties.model_stock.__wrapped__(*deltas)",
        "cosines of whole tensors, all pairs; sd-mecha: of last axes, neighbouring pairs",
    ),
    "model_stock, two flat": (
        "model_stock(base, a, b)",
        "base + ties.model_stock.__wrapped__(*(d.ravel() for d in deltas[:2])).view_as(base)",
        "",
    ),
    "cosine_a": ("cosine_a(a, b, 0.4)", "cosine.add_cosine_a.__wrapped__(a, b, T(0.4))", ""),
    "cosine_b": ("cosine_b(a, b, 0.4)", "cosine.add_cosine_b.__wrapped__(a, b, T(0.4))", ""),
    "low_rank": (
        "base + low_rank(a - base, rank=5)",
        "base + svd.truncate_rank.__wrapped__(deltas[0], rank=5, use_approximate_basis=False)",
        "",
    ),
    "tensor_swap": (
        "tensor_swap(a, b, 0.25, 0.75)",
        "slicing.tensor_sum.__wrapped__(a.clone(), b.clone(), width=0.5, offset=0.25)",
        "",
    ),
    "task_arithmetic": (
        "task_arithmetic(base, a, b, scale=0.4)",
        "base + 0.4 * (deltas[0] + deltas[1])",
        "",
    ),
    "train_difference": (
        "train_difference(a, b, c, 1)",
        "a + linear.train_difference_mask.__wrapped__(a, b, c, alpha=T(1.0)) * (b - c)",
        "",
    ),
}
ROUNDED = "the largest 20 % of 3072, rounded up; mergekit rounds down"
NORMS = "norms are interpolated apart from directions; mergekit: sin weights on whole vectors"
# The same with mergekit; u and v are a and b with one norm.
MERGEKIT = {
    "task_arithmetic": (
        "task_arithmetic(base, a, b, c, scale=0.4)",
        "run('task_arithmetic', base, a, b, c, **{'lambda': 0.4})",
        "",
    ),
    "ties": ("ties(base, a, b, c, keep=0.2)", "run('ties', base, a, b, c, density=0.2)", ROUNDED),
    "ties, keep 1/4": (
        "ties(base, a, b, c, keep=1/4)",
        "run('ties', base, a, b, c, density=0.25)",
        "",
    ),
    "ties by count": (
        'ties(base, a, b, c, keep=1/4, elect="count")',
        "elect_by_count(base, a, b, c, density=0.25)",
        "where as many deltas rise as fall none is elected; mergekit: those that rise",
    ),
    "dare, nothing dropped": (
        "dare(base, a, b, c, p=0)",
        "run('dare_linear', base, a, b, c, density=1.0, normalize=True)",
        "",
    ),
    "breadcrumbs": (
        "breadcrumbs(base, a, b, c, keep=3/4, cut=1/128, scale=3)",
        "run('breadcrumbs', base, a, b, c, density=0.75, gamma=1 / 128)",
        "",
    ),
    "model_stock": ("model_stock(base, a, b, c)", "run('model_stock', base, a, b, c)", ""),
    "slerp of one norm": ("slerp(u, v, 0.3)", "slerp(0.3, u, v)", ""),
    "slerp": ("slerp(a, b, 0.3)", "slerp(0.3, a, b)", NORMS),
    "nuslerp of one norm": (
        "slerp(u, v, 0.3)",
        "run('nuslerp', None, u, v, weight=(0.7, 0.3))",
        "",
    ),
    "karcher_mean": (
        "karcher_mean(a, b, c)",
        "karcher([a, b, c], [1 / 3] * 3, max_iter=1000, tol=1e-12)",
        "",
    ),
}  # fmt: skip
COMMON = """
import sys, numpy, torch
T = lambda x: torch.tensor(x, dtype=torch.float64)
given = {k: torch.from_numpy(v) for k, v in numpy.load(sys.argv[1]).items()}
base, a, b, c, u, v = (given[k] for k in ("base", "a", "b", "c", "u", "v"))
deltas = [x - base for x in (a, b, c)]
"""
SD_MECHA = (
    "from sd_mecha.extensions.builtin.merge_methods import cosine, linear, slicing, svd, ties"
)
MERGEKIT_SETUP = """
import dataclasses
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import ParameterScope, PerInputValues, TensorGroup
from mergekit.merge_methods.generalized_task_arithmetic import ConsensusMethod
from mergekit.merge_methods.karcher import karcher_merge_tensors as karcher
from mergekit.merge_methods.slerp import slerp as kernel

def slerp(t, x, y):
    return kernel(T([t]), x[None], y[None])[0]

def run(method, base, *models, weight=None, **given):
    method = registry.get(method) if isinstance(method, str) else method
    tensors = ([] if base is None else [base]) + list(models)
    group = TensorGroup.from_tensors(tensors, base_index=None if base is None else 0)
    first = len(tensors) - len(models)
    values = {}
    for spec in method.spec.parameters:
        value = given.get(spec.name, spec.default)
        if spec.scope is not ParameterScope.SHARED:
            each = [value] * len(models)
            if spec.name == "weight":
                each = weight or [1.0] * len(models)
            value = PerInputValues([(first + i, one) for i, one in enumerate(each)])
        values[spec.name] = value
    return method.merge_group(group, **values)

def elect_by_count(*tensors, **given):
    by_count = dataclasses.replace(registry.get("ties"), consensus_method=ConsensusMethod.count)
    return run(by_count, *tensors, **given)
"""
THEIRS = """
results = {}
for line in open(sys.argv[2]):
    name, text = line.rstrip("\\n").split("\\t")
    try:
        results[name] = eval(text).numpy()
    except Exception as error:
        print(name, type(error).__name__, error, file=sys.stderr)
numpy.savez(sys.argv[3], **results)
"""


MERGEKIT_PACKAGES = (
    "mergekit==0.1.5", "immutables==0.21", "pydantic==2.14.3", "pydantic-core==2.50.4",
    "annotated-types==0.8.0", "typing-inspection==0.4.5",
)  # fmt: skip


def borrowing_python(work: Path, name: str, packages: tuple[str, ...]) -> Path:
    """Python of an environment that borrows torch from this one and adds packages; made once."""
    folder = work / f"{name}-venv"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        print(f"making the environment {name}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        link = folder / "lib" / version / "site-packages" / "borrowed.pth"
        link.write_text(sysconfig.get_paths()["purelib"] + "\n")
        command = [python, "-m", "pip", "install", "-q", "--no-deps", *packages]
        subprocess.run(command, check=True)
        ready.touch()
    return python


def main() -> None:
    """Compute both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(12)
    base = 0.05 * rng.standard_normal((64, 48))
    models = {"base": base}
    common = 0.004 * rng.standard_normal(base.shape)
    for name in "abc":
        models[name] = base + common + 0.004 * rng.standard_normal(base.shape)
    models["u"] = models["a"]
    models["v"] = models["b"] * (np.linalg.norm(models["a"]) / np.linalg.norm(models["b"]))
    mergekit = borrowing_python(args.work, "mergekit", MERGEKIT_PACKAGES)
    bad = [
        *table(args.work, "sd-mecha", peer_python(args.work), SD_MECHA, MECHA, models),
        *table(args.work, "mergekit", mergekit, MERGEKIT_SETUP, MERGEKIT, models),
    ]
    print("agreement to 1e-9, or a reason:", f"NOT for {', '.join(bad)}" if bad else "kept")
    sys.exit(bool(bad))


def table(
    work: Path,
    peer: str,
    python: Path,
    setup: str,
    cases: dict[str, tuple[str, str, str]],
    models: dict[str, np.ndarray],
) -> list[str]:
    """Compute both sides and print them; names of those that differ for no reason."""
    shape = models["base"].shape
    inputs, calls, outputs = (work / f"{peer}-{n}" for n in ("in.npz", "calls", "out.npz"))
    np.savez(inputs, **models)
    calls.write_text("".join(f"{name}\t{theirs}\n" for name, (_, theirs, _) in cases.items()))
    subprocess.run([python, "-c", COMMON + setup + THEIRS, inputs, calls, outputs], check=True)
    theirs = np.load(outputs)
    info = TensorInfo("w", DTYPES["F64"], shape)
    sources = {n: MemorySource({"w": (info, v.tobytes())}, name=n) for n, v in models.items()}
    pool = {name: f"{name}.safetensors" for name in models}
    print(f"{peer:26s}{'max difference':>16s}{'elements':>10s}  reason")
    bad = []
    for name, (expression, _, reason) in cases.items():
        if name not in theirs:
            print(f"{name:26s}{'–':>16s}  {peer} gives none")
            bad.append(name)
            continue
        ours = np.frombuffer(
            merge_in_memory(make_recipe(expression, pool), sources).read_bytes("w")
        )
        gaps = np.abs(ours.reshape(shape) - theirs[name])
        off, count = float(gaps.max()), int((gaps > 1e-9).sum())
        if off > 1e-9 and not reason:
            bad.append(name)
        print(f"{name:26s}{off:16.2g}{count:10d}  {reason if count else ''}")
    return bad


if __name__ == "__main__":
    main()
