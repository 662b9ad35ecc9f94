"""Mixed commands for a long time in one process: memory and open files must not grow.

    python bench/soak.py --minutes 45 --warm-up 10
    python bench/soak.py --minutes 2 --warm-up 1 --no-draw      # a look

It goes round a fixed list of commands, good ones and ones that end in an error, in a random order.
Resident memory and open files are taken each minute, between two commands. It passes where, after
the warm-up, no sample is more than 5 % (and at least 10 MB) above or below the first one, and open
files stay within 2 of it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from asking import ask
from faults import JOBS, prepare

DRAWN = (
    "draw lerp(a,b,{ratio}) --pool a=in/z0.safetensors --pool b=in/z1.safetensors "
    "--payload in/p.json -o out/pictures --seed {seed}",
    "draw in/z1.safetensors --payload in/p.json --payload in/hires.json -o out/pictures",
    "grid mean(a,b) --pool a=in/z0.safetensors --pool b=in/z1.safetensors --payload in/p.json "
    "-x seed=1-2 -y steps=1,2 -o out/grid",
    "score in/picture.png --score piqe --score colourfulness --json",
)
MORE = (
    "recipe show in/recipe.yaml",
    "recipe lint in/recipe.yaml",
    "recipe contributions in/recipe.yaml -o out/shares.svg",
    "recipe graph in/recipe.yaml -o out/graph.svg",
    "recipe same in/recipe.yaml in/recipe.yaml",
    "methods",
    "inspect in/z0.safetensors --html out/page.html",
    "merge -e geometric_median(z0,z1,z0) --pool in/z0.safetensors --pool in/z1.safetensors "
    "-o out/o.safetensors",
)
WRONG = (
    "mean in/a.safetensors in/nowhere.safetensors -o out/o.safetensors",
    "mean in/a.safetensors in/z0.safetensors -o out/o.safetensors",
    "mean in/a.safetensors in/cut.safetensors -o out/o.safetensors",
    "merge -e ties(a, -o out/o.safetensors",
    "recipe show in/cut.safetensors",
    "verify in/cut.safetensors",
    "inspect in --json",
)


def rss_mb() -> float:
    """Resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def in_use_mb() -> float:
    """What the C library's heap holds that is not free; 0 where it does not tell."""
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    try:
        ask_heap = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return 0.0
    ask_heap.restype = Info
    told = ask_heap()
    return float(told.uordblks + told.hblkhd) / 1e6


def open_files() -> int:
    """Open descriptors of this process, without the one that lists them."""
    return len(os.listdir("/proc/self/fd")) - 1


def more_inputs(folder: Path) -> None:
    """What is read besides the checkpoints of `faults.py`."""
    inputs = folder / "in"
    whole = (inputs / "a.safetensors").read_bytes()
    (inputs / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    request = {"prompt": "a red circle", "steps": 2, "width": 32, "height": 32, "seed": 1,
               "cfg_scale": 3, "sampler_name": "Euler"}  # fmt: skip
    (inputs / "p.json").write_text(json.dumps(request))
    larger = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent"}
    (inputs / "hires.json").write_text(json.dumps({**request, **larger}))
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(inputs / "picture.png")


def main() -> None:
    """Go round until the time is over; exit code 1 where something grew or failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--warm-up", type=float, default=10, help="minutes before the first sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-draw", action="store_true", help="without the drawing libraries")
    parser.add_argument("--every", type=float, default=60, help="seconds between two samples")
    parser.add_argument("--only", default="", help="commands that begin so; to find a leak")
    options = parser.parse_args()
    good = [job.arguments for job in JOBS] + list(MORE)
    good += [] if options.no_draw else list(DRAWN)
    commands = [(text, True) for text in good] + [(text, False) for text in WRONG]
    commands = [pair for pair in commands if pair[0].startswith(options.only)]
    rng, counts, failures = random.Random(options.seed), Counter[str](), list[str]()
    samples: list[tuple[float, float, int]] = []
    with tempfile.TemporaryDirectory(prefix="stockpot-soak-") as place:
        folder = Path(place).resolve() / "disk"
        prepare(folder, zoo=True)
        more_inputs(folder)
        os.environ["STOCKPOT_CACHE"] = str(folder / "cache")
        start = time.monotonic()
        due = options.every
        print("| minute | resident, MB | in use, MB | open files | commands |")
        print("|---|---|---|---|---|", flush=True)
        while (now := time.monotonic() - start) < options.minutes * 60:
            for text, succeeds in rng.sample(commands, len(commands)):
                shutil.rmtree(folder / "out")
                (folder / "out").mkdir()
                words = text.format(ratio=rng.random(), seed=rng.randrange(1 << 31)).split()
                answer = ask(*words, folder=folder)
                counts[words[0] if succeeds else "wrong on purpose"] += 1
                if (answer.code == 0) != succeeds or answer.code < 0:
                    failures.append(f"{text}: {answer.code}\n{answer.err[-2000:]}")
                if (now := time.monotonic() - start) >= due:
                    due += options.every
                    gc.collect()
                    samples.append((now / 60, rss_mb(), open_files()))
                    done = sum(counts.values())
                    print(f"| {now / 60:.1f} | {samples[-1][1]:.1f} | {in_use_mb():.1f} | "
                          f"{samples[-1][2]} | {done} |",
                          flush=True)  # fmt: skip
                if now >= options.minutes * 60:
                    break
    print("\n" + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    later = [sample for sample in samples if sample[0] >= options.warm_up]
    for failure in failures[:5]:
        print(failure, file=sys.stderr)
    if not later:
        print("no sample after the warm-up: give it more time")
        sys.exit(1)
    first = later[0]
    worst_mb = max((mb - first[1] for _, mb, _ in later), key=abs)
    worst_files = max((n - first[2] for _, _, n in later), key=abs)
    allowed = max(10.0, first[1] * 0.05)
    passes = abs(worst_mb) <= allowed and abs(worst_files) <= 2 and not failures
    print(f"{sum(counts.values())} commands in {options.minutes:g} minutes; {len(failures)} ended "
          f"otherwise than they must; resident memory {first[1]:.1f} MB after "
          f"{first[0]:.1f} minutes, at most {worst_mb:+.1f} MB ({worst_mb / first[1]:+.1%}) from "
          f"there; open files {first[2]}, at most {worst_files:+d}")  # fmt: skip
    print("ok" if passes else "FAILED")
    sys.exit(not passes)


if __name__ == "__main__":
    main()
