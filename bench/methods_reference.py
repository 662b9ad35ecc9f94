"""Do methods agree with independent implementations?

Runs each method that sd-mecha has too on the same tensors of doubles, there in a virtual
environment of its own, and prints the largest difference, with the reason where we differ on
purpose. See bench/README.md.

    python bench/methods_reference.py --work /big/disk/bench
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from merge_speed import peer_python

from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
from stockpot.engine import merge_in_memory
from stockpot.recipes import make_recipe

# Ours, theirs (over the tensors base, a, b, c), and why they may differ.
CASES = {
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
THEIRS = """
import sys, numpy, torch
from sd_mecha.extensions.builtin.merge_methods import cosine, linear, slicing, svd, ties
T = lambda x: torch.tensor(x, dtype=torch.float64)
given = {k: torch.from_numpy(v) for k, v in numpy.load(sys.argv[1]).items()}
base, a, b, c = (given[k] for k in ("base", "a", "b", "c"))
deltas = [x - base for x in (a, b, c)]
results = {}
for line in open(sys.argv[2]):
    name, text = line.rstrip("\\n").split("\\t")
    try:
        results[name] = eval(text).numpy()
    except Exception as error:
        print(name, type(error).__name__, error, file=sys.stderr)
numpy.savez(sys.argv[3], **results)
"""


def main() -> None:
    """Compute both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    python = peer_python(args.work)
    rng = np.random.default_rng(12)
    base = 0.05 * rng.standard_normal((64, 48))
    models = {"base": base}
    common = 0.004 * rng.standard_normal(base.shape)
    for name in "abc":
        models[name] = base + common + 0.004 * rng.standard_normal(base.shape)
    inputs, calls, outputs = (args.work / f"reference-{n}" for n in ("in.npz", "calls", "out.npz"))
    np.savez(inputs, **models)
    calls.write_text("".join(f"{name}\t{theirs}\n" for name, (_, theirs, _) in CASES.items()))
    subprocess.run([python, "-c", THEIRS, inputs, calls, outputs], check=True)
    theirs = np.load(outputs)
    info = TensorInfo("w", DTYPES["F64"], base.shape)
    sources = {n: MemorySource({"w": (info, v.tobytes())}, name=n) for n, v in models.items()}
    pool = {name: f"{name}.safetensors" for name in models}
    print(f"{'method':24s}{'max difference':>16s}{'elements':>10s}  reason")
    bad = []
    for name, (expression, _, reason) in CASES.items():
        if name not in theirs:
            print(f"{name:24s}{'–':>16s}  sd-mecha gives none")
            continue
        ours = np.frombuffer(
            merge_in_memory(make_recipe(expression, pool), sources).read_bytes("w")
        )
        gaps = np.abs(ours.reshape(base.shape) - theirs[name])
        off, count = float(gaps.max()), int((gaps > 1e-9).sum())
        if off > 1e-9 and not reason:
            bad.append(name)
        print(f"{name:24s}{off:16.2g}{count:10d}  {reason if count else ''}")
    print("agreement to 1e-9, or a reason:", f"NOT for {', '.join(bad)}" if bad else "kept")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
