"""How fast is a merge, against the least that any merge must do?

Makes checkpoints with the exact keys and shapes of Stable Diffusion and measures, side by side in
one run and in alternating order: reading all inputs; copying one of them and syncing the copy;
``stockpot mean`` with and without hashes and re-read check, and with the torch kernel; and
sd-mecha's ``n_average`` in a virtual environment of its own. See bench/README.md.

    python bench/merge_speed.py --work /big/disk/bench
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stockpot.checkpoints import DTYPES, TensorInfo, encode_header, in_file_order
from stockpot.layouts import counter_values, get_layout

SD_MECHA = """
import sys, sd_mecha
*inputs, output = sys.argv[1:]
sd_mecha.merge(sd_mecha.n_average(*[sd_mecha.model(path) for path in inputs]), output=output)
"""
BUFFER_BYTES = 1 << 22
BLOCK_VALUES = 1 << 25
BUDGETS = {"fast": 1.7, "checked": 3.0, "sd-mecha": 6.0}
MOST_ANONYMOUS_MB = 700


@dataclass
class Measure:
    """One timed run.

    Attributes:
        wall_s: Seconds on the clock.
        cpu_s: Seconds of all cores together.
        anonymous_mb: Peak of the process's anonymous memory, in millions of bytes; 0 where it was
            not looked at.
    """

    wall_s: float
    cpu_s: float
    anonymous_mb: float = 0.0


def infos_of(arch: str, unet_only: bool) -> dict[str, TensorInfo]:
    """Facts of every tensor of such a file, in file order."""
    infos = {}
    for key, spec in get_layout(arch).specs.items():
        if unet_only and spec.cell.component != "unet":
            continue
        if spec.role == "counter":
            infos[key] = TensorInfo(key, DTYPES["I64"], spec.shape)
        elif not spec.optional:
            infos[key] = TensorInfo(key, DTYPES["F16"], spec.shape)
    return in_file_order(infos)


def make_file(path: Path, arch: str, unet_only: bool, number: int, block: memoryview) -> None:
    """Write one checkpoint of values ~N(0, 0.03), cut from one random block at other places."""
    infos = infos_of(arch, unet_only)
    specs = get_layout(arch).specs
    header = encode_header(infos, {"format": "pt"})
    size = len(header) + sum(info.n_bytes for info in infos.values())
    if path.exists() and path.stat().st_size == size:
        return
    print(f"making {path.name} ({size / 1e9:.2f} GB)", file=sys.stderr)
    with path.open("wb") as file:
        file.write(header)
        for i, (key, info) in enumerate(infos.items()):
            if specs[key].role == "counter":
                file.write(np.array(counter_values(specs[key]), np.int64).tobytes())
                continue
            # Large odd steps, so that neither files nor keys share a place.
            at = 2 * ((number * 7_368_787 + i * 15_485_863) % BLOCK_VALUES)
            rest = info.n_bytes
            while rest:
                piece = block[at : at + rest]
                file.write(piece)
                rest, at = rest - piece.nbytes, 0


def make_files(work: Path, arch: str, unet_only: bool, n_files: int) -> list[Path]:
    """Files that are kept and used again."""
    kind = f"{arch}-unet" if unet_only else arch
    paths = [work / f"{kind}-{number}.safetensors" for number in range(n_files)]
    if not all(path.exists() for path in paths):
        rng = np.random.default_rng(7)
        values = rng.standard_normal(BLOCK_VALUES, np.float32) * np.float32(0.03)
        block = memoryview(values.astype(np.float16)).cast("B")
        for number, path in enumerate(paths):
            make_file(path, arch, unet_only, number, block)
        os.sync()
    return paths


def read_all(paths: list[Path]) -> None:
    """Read files from end to end into one buffer that is used again."""
    buffer = bytearray(BUFFER_BYTES)
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        at = 0
        while got := os.preadv(descriptor, [buffer], at):
            at += got
        os.close(descriptor)


def copy_and_sync(source: Path, target: Path) -> None:
    """Copy a file the plain way and wait for the disk."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        while got := reader.readinto(buffer):
            writer.write(buffer[:got])
        os.fsync(writer.fileno())


def in_process(work: Callable[[], None]) -> Measure:
    """Time a function."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Measure(time.perf_counter() - wall, time.process_time() - cpu)


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process now; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("RssAnon:")), "RssAnon: 0")
    return int(line.split()[1]) * 1024


def as_program(command: list[str | Path]) -> Measure:
    """Run a program and watch its memory every 20 ms."""
    peak = 0
    ended = threading.Event()
    with tempfile.TemporaryFile() as output:
        wall = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.02):
                peak = max(peak, anonymous_bytes(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - wall
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
        if process.returncode:
            output.seek(0)
            sys.exit(f"{command[:4]} failed:\n{output.read().decode(errors='replace')[-3000:]}")
    return Measure(wall, usage.ru_utime + usage.ru_stime, peak / 1e6)


def peer_python(work: Path) -> Path:
    """Python of sd-mecha's own environment; made on first use."""
    folder = work / "sd-mecha-venv"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        print("making sd-mecha's environment", file=sys.stderr)
        venv.create(folder, with_pip=True)
        for package in ("torch==2.13.0", "sd-mecha==1.1.8"):
            subprocess.run([python, "-m", "pip", "install", "-q", package], check=True)
        ready.touch()
    return python


def measure(
    paths: list[Path], work: Path, repeats: int, wanted: list[str]
) -> dict[str, list[Measure]]:
    """All candidates `repeats` times, forwards and backwards in turn."""
    output = work / "output.safetensors"
    stockpot = [sys.executable, "-m", "stockpot", "mean", *paths, "-o", output]
    candidates: dict[str, Callable[[], Measure]] = {
        "read": lambda: in_process(lambda: read_all(paths)),
        "write": lambda: in_process(lambda: copy_and_sync(paths[0], output)),
        "fast": lambda: as_program([*stockpot, "--no-hash", "--no-verify"]),
        "checked": lambda: as_program(stockpot),
        "torch": lambda: as_program([*stockpot, "--kernel", "torch", "--no-hash", "--no-verify"]),
    }
    if "sd-mecha" in wanted:
        python = peer_python(work)
        candidates["sd-mecha"] = lambda: as_program([python, "-c", SD_MECHA, *paths, output])
    found: dict[str, list[Measure]] = {name: [] for name in candidates if name in wanted}
    for repeat in range(repeats):
        order = list(found) if repeat % 2 == 0 else list(reversed(found))
        for name in order:
            output.unlink(missing_ok=True)
            os.sync()  # what others left dirty is not this one's cost
            read_all(paths)  # all that is read is in the page cache
            result = candidates[name]()
            found[name].append(result)
            print(f"  {repeat + 1}/{repeats} {name:9s} {result.wall_s:7.2f} s", file=sys.stderr)
    output.unlink(missing_ok=True)
    return found


def report(found: dict[str, list[Measure]], n_files: int) -> tuple[list[str], dict[str, float]]:
    """The table's lines, and what is compared with the budgets."""
    median = {name: statistics.median(m.wall_s for m in runs) for name, runs in found.items()}
    least = median["read"] + median["write"]
    lines = [
        f"{n_files} files; least possible (read + write): {least:.2f} s",
        f"{'':10s}{'wall s':>9s}{'min':>8s}{'max':>8s}{'CPU s':>9s}{'anon MB':>9s}{'× least':>9s}",
    ]
    ratios: dict[str, float] = {}
    for name, runs in found.items():
        walls = [m.wall_s for m in runs]
        cpu = statistics.median(m.cpu_s for m in runs)
        memory = max(m.anonymous_mb for m in runs)
        lines.append(
            f"{name:10s}{median[name]:9.2f}{min(walls):8.2f}{max(walls):8.2f}{cpu:9.2f}"
            f"{memory:9.0f}{median[name] / least:9.2f}"
        )
        ratios[f"{name}/least"] = median[name] / least
        ratios[f"{name} anonymous MB"] = memory
    if "sd-mecha" in found and "checked" in found:
        ratios["sd-mecha/checked"] = median["sd-mecha"] / median["checked"]
    if "torch" in found and "fast" in found:
        ratios["torch/fast"] = median["torch"] / median["fast"]
    return lines, ratios


def verdicts(results: dict[int, dict[str, float]]) -> list[str]:
    """Each budget, and whether it is kept."""
    lines = []

    def judge(text: str, value: float, limit: float, at_most: bool = True) -> None:
        kept = value <= limit if at_most else value >= limit
        sign = "≤" if at_most else "≥"
        lines.append(f"{'ok  ' if kept else 'MISS'} {text}: {value:.2f} {sign} {limit}")

    for n_files, ratios in results.items():
        for name in ("fast", "checked"):
            if f"{name}/least" in ratios:
                judge(f"{n_files} files, {name}/least", ratios[f"{name}/least"], BUDGETS[name])
        if "sd-mecha/checked" in ratios:
            value = ratios["sd-mecha/checked"]
            judge(f"{n_files} files, sd-mecha/checked", value, BUDGETS["sd-mecha"], False)
    peaks = {n: max(r.get(f"{k} anonymous MB", 0) for k in ("fast", "checked"))
             for n, r in results.items()}  # fmt: skip
    first = min(peaks)
    judge(f"{first} files, peak anonymous MB", peaks[first], MOST_ANONYMOUS_MB)
    for n_files, peak in peaks.items():
        if n_files != first:
            judge(f"{n_files} files, peak against {first} files", peak / peaks[first], 1.1)
    return lines


def main() -> None:
    """Make the files, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(tempfile.gettempdir()) / "stockpot-bench"
    parser.add_argument("--work", type=Path, default=default, help="folder for files, kept")
    parser.add_argument("--arch", choices=("sd1", "sd2", "sdxl"), default="sd1")
    parser.add_argument("--unet-only", action="store_true")
    parser.add_argument("--counts", default="4", help="numbers of files, such as 4,8")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="candidates, such as read,write,fast")
    parser.add_argument("--peer-up-to", type=int, default=4, help="most files for sd-mecha")
    parser.add_argument("--json", type=Path, help="where to save; by default in --work")
    parser.add_argument("--clean", action="store_true", help="remove the files and stop")
    options = parser.parse_args()
    work: Path = options.work
    if options.clean:
        for path in (*work.glob("sd*-*.safetensors"), *work.glob("output.safetensors*")):
            path.unlink()
        shutil.rmtree(work / "sd-mecha-venv", ignore_errors=True)
        return
    work.mkdir(parents=True, exist_ok=True)
    results: dict[int, dict[str, float]] = {}
    saved = {}
    for n_files in map(int, options.counts.split(",")):
        unet_only = options.unet_only
        whole = sum(info.n_bytes for info in infos_of(options.arch, False).values())
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if (n_files + 1) * whole > 0.7 * memory:
            unet_only = True  # whole ones would not stay in the page cache
        paths = make_files(work, options.arch, unet_only, n_files)
        wanted = ["read", "write", "fast", "checked", "torch", "sd-mecha"]
        if n_files > options.peer_up_to:
            wanted.remove("sd-mecha")
        if options.only:
            wanted = [name for name in wanted if name in options.only.split(",")]
        found = measure(paths, work, options.repeats, wanted)
        lines, results[n_files] = report(found, n_files)
        title = f"{options.arch}{' UNet only' if unet_only else ''}, fp16, "
        print(title + "\n".join(lines) + "\n", flush=True)
        saved[n_files] = {
            "arch": options.arch,
            "unet_only": unet_only,
            "runs": {name: [asdict(m) for m in runs] for name, runs in found.items()},
            "ratios": results[n_files],
        }
    for line in verdicts(results):
        print(line)
    target = options.json or work / "merge_speed.json"
    target.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
