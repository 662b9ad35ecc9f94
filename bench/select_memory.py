"""Memory of a selection, and what it writes to disk, against the number of models.

Pools of SD 1.5's shapes with random weights; `stockpot select` on some, more and many of them, each
as a process of its own, watched every 20 ms. What libraries and pages take is the peak of the same
command on the zoo's models of a few MB. See bench/README.md.

    python bench/select_memory.py --work DIR --counts 3,6,12 --memory 8GiB
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from merge_speed import anonymous_bytes, make_files
from real_shapes import tokenizer

from stockpot.engine import parse_size
from stockpot.zoo import family, zoo_path

WHOLE = 4
SIDE, STEPS, PICTURES = 64, 2, 3
KEPT = {"evidence.jsonl", "recipe.yaml", "core.yaml", "selection.html", "selection.json", "figures"}
SPARE_BYTES = 1 << 20  # lines of progress, and what is written twice


@dataclass(frozen=True)
class Watched:
    """What one selection took.

    Attributes:
        models: Of the pool.
        candidates: Examined.
        anonymous: Most anonymous memory, in bytes.
        resident: Most resident memory, pages of mapped files included.
        wrote: Bytes that the process gave to the system to write, to any file or pipe.
        most_on_disk: Most bytes that lay in the results' folder and the temporary one at a time.
        left: Bytes of the results.
        strangers: Files that lay there at any time and are no results.
        seconds: On the clock.
    """

    models: int
    candidates: int
    anonymous: int
    resident: int
    wrote: int
    most_on_disk: int
    left: int
    strangers: tuple[str, ...]
    seconds: float


def number_of(path: str, word: str) -> int:
    """A number that the system tells of a process; 0 where it says nothing."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(word)), 0)


def files_in(*folders: Path) -> dict[str, int]:
    """Sizes of all files now; those that go away meanwhile are left out."""
    found = {}
    for folder in folders:
        for file in folder.rglob("*"):
            try:
                # Python's `tempfile` tries a folder out with a file of four bytes.
                if file.is_file() and file.stat().st_size > len(b"blat"):
                    found[str(file.relative_to(folder))] = file.stat().st_size
            except OSError:
                continue
    return found


def watch(files: list[Path], extra: list[str], work: Path, words: Path) -> Watched:
    """Run one selection from its beginning."""
    output, scratch = work / "selection", work / "tmp"
    for folder in (output, scratch):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    payloads = work / "payloads"
    payloads.mkdir(exist_ok=True)
    for name in ("cat", "house"):
        (payloads / f"{name}.json").write_text(json.dumps({
            "prompt": f"a {name}", "seed": 1, "steps": STEPS, "width": SIDE, "height": SIDE,
            "sampler_name": "Euler", "cfg_scale": 5, "n_iter": PICTURES,
        }))  # fmt: skip
    command = [sys.executable, "-m", "stockpot", "select", *map(str, files), "--payloads",
               str(payloads), "--score", "detail", "-o", str(output), *extra]  # fmt: skip
    environment = os.environ | {"TMPDIR": str(scratch), "STOCKPOT_TOKENIZER": str(words)}
    anonymous = resident = wrote = most = 0
    seen: set[str] = set()
    start = time.monotonic()
    with (work / "select.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        ended = threading.Event()

        def look() -> None:
            nonlocal anonymous, resident, wrote, most
            while not ended.wait(0.02):
                anonymous = max(anonymous, anonymous_bytes(process.pid))
                resident = max(resident, 1024 * number_of(f"/proc/{process.pid}/status", "VmHWM:"))
                wrote = max(wrote, number_of(f"/proc/{process.pid}/io", "wchar:"))
                there = files_in(output, scratch)
                most = max(most, sum(there.values()))
                seen.update(there)

        watcher = threading.Thread(target=look)
        watcher.start()
        rc = process.wait()
        ended.set()
        watcher.join()
    if rc:
        sys.exit(f"stockpot select failed:\n{(work / 'select.log').read_text()[-3000:]}")
    left = files_in(output)
    lines = (output / "evidence.jsonl").read_text().splitlines()[1:]
    candidates = len({json.loads(line)["key"] for line in lines})
    # A result is written under another name first, which begins with its own.
    tops = {name: Path(name).parts[0].lstrip(".") for name in seen}
    strangers = tuple(sorted(
        name for name, top in tops.items() if not any(top.startswith(kept) for kept in KEPT)
    ))  # fmt: skip
    return Watched(len(files), candidates, anonymous, resident, wrote, most, sum(left.values()),
                   strangers, time.monotonic() - start)  # fmt: skip


def refused(files: list[Path], memory: str, work: Path, words: Path) -> str:
    """What a budget that is too small is told, and whether anything was begun."""
    output = work / "refused"
    command = [sys.executable, "-m", "stockpot", "select", *map(str, files), "--payloads",
               str(work / "payloads"), "--score", "detail", "-o", str(output),
               "--memory", memory]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True,
                          env=os.environ | {"STOCKPOT_TOKENIZER": str(words)})  # fmt: skip
    text = done.stderr.strip().splitlines()
    told = text[-1] if text else ""
    good = done.returncode == 1 and "needs" in told and not output.exists()
    return f"{'ok  ' if good else 'MISS'} --memory {memory} is refused: {told}"


def main() -> None:
    """Make or find the files, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(tempfile.gettempdir()) / "stockpot-bench"
    parser.add_argument("--work", type=Path, default=default)
    parser.add_argument("--source", type=Path, help="folder of merge_speed.py's files; else --work")
    parser.add_argument("--counts", default="3,6,12")
    parser.add_argument("--memory", default="8GiB")
    parser.add_argument("--core", action="store_true", help="look for a core too: takes longer")
    parser.add_argument("--te-only", action="store_true", help="no UNet alone: a third of the time")
    parser.add_argument("--pictures", type=int, default=0, help="on the page; drawn once more")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    counts = [int(count) for count in options.counts.split(",")]
    source = options.source or work
    whole = make_files(source, "sd1", False, min(WHOLE, max(counts)))
    unets = make_files(source, "sd1", True, max(0, max(counts) - WHOLE))
    files = [*whole, *unets]
    budget = parse_size(options.memory)
    extra = [
        "--memory",
        options.memory,
        "--pictures",
        str(options.pictures),
        *([] if options.core else ["--no-core"]),
    ]
    extra += ["--stop-after", "te"] if options.te_only else []
    print(f"SD 1.5's shapes, {SIDE} px, {STEPS} steps, {2 * PICTURES} pictures a candidate")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        inside = Path(folder)
        words = tokenizer(inside / "tokenizer")
        small = [Path(member.path) for member in family()][: min(counts)]
        base = watch(small, [*extra, "--config", str(zoo_path() / "config")], inside, words)
        print(f"{len(small)} models of the zoo: peak {base.anonymous / 1e6:.0f} MB: the libraries")
        rows = []
        print("models  candidates  peak MB  above MB  budget MB  resident MB  wrote MB  results MB"
              "  most on disk MB  minutes")  # fmt: skip
        for count in counts:
            row = watch(files[:count], extra, inside, words)
            rows.append(row)
            print(f"{row.models:6d}  {row.candidates:10d}  {row.anonymous / 1e6:7.0f}  "
                  f"{(row.anonymous - base.anonymous) / 1e6:8.0f}  {budget / 1e6:9.0f}  "
                  f"{row.resident / 1e6:11.0f}  {row.wrote / 1e6:8.2f}  {row.left / 1e6:10.2f}  "
                  f"{row.most_on_disk / 1e6:15.2f}  {row.seconds / 60:7.1f}",
                  flush=True)  # fmt: skip
        lines = []
        for row in rows:
            above = row.anonymous - base.anonymous
            good = above <= budget
            lines.append(f"{'ok  ' if good else 'MISS'} {row.models} models: {above / 1e6:.0f} MB "
                         f"above the libraries, of {budget / 1e6:.0f}")  # fmt: skip
            good = (not row.strangers and row.wrote <= 2 * row.left + SPARE_BYTES
                    and row.most_on_disk <= row.left + SPARE_BYTES)  # fmt: skip
            lines.append(f"{'ok  ' if good else 'MISS'} {row.models} models: nothing on disk but "
                         f"the results{': ' if row.strangers else ''}"
                         f"{', '.join(row.strangers[:5])}")  # fmt: skip
        lines.append(refused(files[: counts[0]], "2GiB", inside, words))
    print("\n".join(lines))
    sys.exit(any(line.startswith("MISS") for line in lines))


if __name__ == "__main__":
    main()
