"""Random faults in random commands: a right output or a clear error, and nothing is lost.

    python bench/faults.py                       # 2,000 runs
    python bench/faults.py --runs 100 --seed 7

Each run takes one command, one fault of `failing_disk.py` and one of the calls that it can strike.
Afterwards: what stands under a final name is bit for bit what an undisturbed run writes, or what
stood there before; inputs are what they were; an error names a file and is no traceback; and where
it failed the same command, asked again without the fault, gives the right bytes.

A bit that flips while an input is read, before anything knows its hash, can be told by nobody
then. Those runs are counted under "told by verify": the output says which hashes were read, and
`stockpot verify --pool` must not call it right. Of commands that only look, and write no weights,
such runs are "as read".
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from asking import Answer, ask
from failing_disk import FAULTS, FailingDisk, Fault
from safetensors.numpy import load_file, save_file

OLD = b"what stood there before"
LEFT = (".partial", ".journal")
Hashes = dict[str, str]


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: In the table.
        arguments: With `in/…` for inputs and `out/…` for outputs.
        outputs: The files with weights that it writes under a final name.
        zoo: Whether it needs models of the zoo.
        can_replace: Whether it knows `--overwrite`.
    """

    name: str
    arguments: str
    outputs: tuple[str, ...] = ("out/o.safetensors",)
    zoo: bool = False
    can_replace: bool = True


_ABC = "in/a.safetensors in/b.safetensors in/c.safetensors"
_POOL = "--pool in/a.safetensors --pool in/b.safetensors --pool in/c.safetensors"
_O = "-o out/o.safetensors"
JOBS = (
    Job("mean", f"mean {_ABC} {_O}"),
    Job("mean, 1 thread", f"mean {_ABC} {_O} --threads 1"),
    Job("mean of .ckpt", f"mean in/old.ckpt in/a.safetensors {_O}"),
    Job("lerp", f"merge -e lerp(a,b,0.3) {_POOL} {_O} --dtype fp32"),
    Job("add difference", f"merge -e a+0.7*(b-c) {_POOL} {_O} --threads 1"),
    Job("ties", f"merge -e ties(a,b,c) {_POOL} {_O}"),
    Job("della", f"merge -e della(a,b,c,p=0.4,eps=0.1) {_POOL} {_O}"),
    Job("geometric median", f"merge -e geometric_median(a,b,c) {_POOL} {_O}"),
    Job("iso_c", f"merge -e iso_c(a,b) {_POOL} {_O} --threads 1"),
    Job("recipe", f"merge in/recipe.yaml {_O}"),
    Job("with sha256", f"mean {_ABC} {_O} --sha256"),
    Job("convert", f"convert in/a.safetensors {_O} --dtype bf16"),
    Job("replay", f"replay in/m.safetensors --pool in {_O}"),
    Job("verify", "verify in/m.safetensors --json", ()),
    Job("verify --pool", "verify in/m.safetensors --pool in --json", ()),
    Job("inspect", "inspect in/a.safetensors in/old.ckpt --json", ()),
    Job("inspect --deep", "inspect in/m.safetensors --deep --hash --json", ()),
    Job("compare", f"compare {_ABC} -o out/seen --json", ("out/seen/comparison.safetensors",)),
    Job("explain", f"explain in/m.safetensors --pool {_ABC} --json", ()),
    Job("recipe of", "recipe of in/m.safetensors --json", ()),
    Job("recipe fold", "recipe fold in/recipe.yaml --json", ()),
    Job("swap", f"swap in/z0.safetensors --vae in/z1.safetensors {_O}", zoo=True),
    Job("extract", f"extract in/z0.safetensors vae {_O}", zoo=True),
    Job("prune", f"prune in/z0.safetensors {_O}", zoo=True),
    Job("to a folder", "convert in/z0.safetensors -o out/folder", ("out/folder",), True, False),
    Job("repair", f"repair in/ids.safetensors {_O}", zoo=True),
)
"""Commands over small files; those of the zoo's models take longer and come more rarely."""


def prepare(folder: Path, zoo: bool) -> None:
    """Make the inputs."""
    inputs = folder / "in"
    inputs.mkdir(parents=True)
    (folder / "out").mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        tensors = {f"k{i}.weight": rng.standard_normal((12, 20)).astype("<f2") for i in range(4)}
        tensors["n.bias"] = rng.standard_normal(33).astype("<f2")
        save_file(tensors, inputs / f"{name}.safetensors")
    import torch
    from safetensors.torch import load_file

    torch.save({"state_dict": load_file(inputs / "d.safetensors")}, inputs / "old.ckpt")
    (inputs / "recipe.yaml").write_text(
        "stockpot: 1\npool: {a: a.safetensors, b: b.safetensors, c: c.safetensors}\n"
        "mix: {model: 'ties(a, b, c) / 2 + a / 2'}\nsave: {dtype: fp16}\n"
    )
    done(ask(*f"mean {_ABC} -o in/m.safetensors".split(), folder=folder))
    if zoo:
        from damage import DAMAGES

        from stockpot.zoo import zoo_path

        for number, member in enumerate(("base", "style-outline")):
            shutil.copy(zoo_path() / f"{member}.safetensors", inputs / f"z{number}.safetensors")
        ids = next(damage for damage in DAMAGES if damage.name == "ids-cut")
        (inputs / "ids.safetensors").write_bytes(ids.make((inputs / "z0.safetensors").read_bytes()))


def done(answer: Answer) -> None:
    """Require success."""
    assert answer.code == 0, answer.err


def hashes(folder: Path) -> Hashes:
    """Hash of every file below a folder, by its path there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha1(p.read_bytes()).hexdigest() for p in files}


@dataclass
class Truth:
    """What a command does where nothing fails.

    Attributes:
        out: Its standard output.
        files: Hash of every file that it leaves.
        calls: How many calls of each kind it makes.
    """

    out: str
    files: Hashes
    disk: FailingDisk


class Driver:
    """Runs commands on a failing disk, and looks at what is left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.backup = folder.with_name(folder.name + "-backup")
        shutil.copytree(folder / "in", self.backup)
        self.inputs = hashes(folder / "in")
        self.truths: dict[Job, Truth] = {}
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.violations: list[str] = []
        self.messages: Counter[str] = Counter()

    def _truth(self, job: Job) -> Truth:
        self._clear()
        done(self._ask(job))
        disk = self._clear() or FailingDisk(self.folder, random.Random(0))
        with disk.mounted():
            answer = self._ask(job)
        done(answer)
        return Truth(answer.out, hashes(self.out), disk)

    def _ask(self, job: Job, *more: str) -> Answer:
        os.environ["STOCKPOT_CACHE"] = str(self.out / "cache")
        answer = ask(*job.arguments.split(), *more, folder=self.folder)
        shutil.rmtree(self.out / "cache", ignore_errors=True)
        return answer

    def _clear(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()

    def run(self, job: Job, fault: Fault, seed: int) -> bool:
        """Do one run; False where the fault can strike none of the command's calls."""
        if job not in self.truths:
            self.truths[job] = self._truth(job)
        truth, rng = self.truths[job], random.Random(seed)
        able = sum(fault.strikes(call) for call in truth.disk.calls)
        if not able:
            return False
        self._clear()
        old = job.can_replace and bool(job.outputs) and rng.random() < 0.3
        overwrite = ("--overwrite",) if old and rng.random() < 0.7 else ()
        if old:
            for name in job.outputs:
                (self.folder / name).parent.mkdir(exist_ok=True, parents=True)
                (self.folder / name).write_bytes(OLD)
        disk = FailingDisk(self.folder, rng, fault, rng.randrange(able))
        with disk.mounted():
            answer = self._ask(job, *overwrite)
        where = f"seed {seed}: {job.name}: {fault.name}{' over old' if old else ''}"
        verdict = self._judge(job, fault, disk, answer, old, bool(overwrite), where)
        self.counts[fault.name, job.name, verdict] += 1
        self._restore()
        if verdict == "clear error" and not (old and not overwrite):
            self._again(job, rng, overwrite, where)
        return True

    def _judge(
        self, job: Job, fault: Fault, disk: FailingDisk, answer: Answer, old: bool,
        overwrite: bool, where: str,
    ) -> str:  # fmt: skip
        truth = self.truths[job]
        self._look_at_inputs(fault, disk, where)
        kept = hashlib.sha1(OLD).hexdigest()
        found = {name: value for name, value in hashes(self.out).items() if not _is_left(name)}
        outputs = {str(Path(name).relative_to("out")) for name in job.outputs}
        wrong = [
            name for name, value in found.items()
            if value != truth.files.get(name) and not (old and name in outputs and value == kept)
        ]  # fmt: skip
        flipped = fault.kind == "flip" and disk.struck is not None
        read_in = flipped and fault.operations == ("read",)
        if answer.code == 0:
            if old and not overwrite:
                return self._violation(where, "something was replaced unasked", answer)
            changed = bool(wrong) or found.keys() != truth.files.keys()
            if not job.outputs:
                changed = answer.out != truth.out
            if not changed:
                return "right"
            meant = fault.kind in ("replace", "rewrite", "truncate")
            if meant and self._is_of_what_came(job, found, answer):
                return "right"
            if read_in and not job.outputs:
                return "as read"
            if read_in and self._is_told(job):
                return "told by verify"
            if read_in and self._is_but_for_a_sha256(job):
                return "as read"
            return self._violation(where, f"another output: {wrong or 'of the command'}", answer)
        if answer.code != 1 or "Traceback" in answer.err:
            return self._violation(where, f"no clear error (code {answer.code})", answer)
        if wrong:
            return self._violation(where, f"a file that is not whole: {wrong}", answer)
        if job.name.startswith("verify") and read_in:
            return "clear error"  # the verdict itself: what was read differs
        if not self._names_a_file(job, fault, disk, answer):
            return self._violation(where, "an error that names no file", answer)
        for line in answer.errors:
            self.messages[line] += 1
        return "clear error"

    def _names_a_file(self, job: Job, fault: Fault, disk: FailingDisk, answer: Answer) -> bool:
        if fault.kind == "memory" and "memory" in answer.err:
            return True
        names = {Path(word).name for word in job.arguments.split() if "/" in word}
        names |= {path.name for path in self.backup.iterdir()}
        names |= {disk.struck.name} if disk.struck else set()
        # `inspect` and `verify` tell of files among their findings.
        looks = job.name.startswith(("inspect", "verify"))
        told = answer.err + (answer.out if looks else "")
        return any(name in told for name in names)

    def _is_of_what_came(self, job: Job, found: Hashes, answer: Answer) -> bool:
        """Whether it is the right output of the input that came before it was opened."""
        self._clear()
        again = self._ask(job)
        same = hashes(self.out) == found if job.outputs else again.out == answer.out
        return again.code == 0 and same

    def _is_but_for_a_sha256(self, job: Job) -> bool:
        """Whether the weights are right, and only a whole file's sha256 was read wrongly."""
        if "--sha256" not in job.arguments:
            return False
        made = load_file(self.folder / job.outputs[0])
        self._clear()
        self._ask(job)
        right = load_file(self.folder / job.outputs[0])
        return made.keys() == right.keys() and all(
            made[key].tobytes() == right[key].tobytes() for key in right
        )

    def _is_told(self, job: Job) -> bool:
        """Whether what was merged from a flipped bit is called wrong afterwards."""
        for name in job.outputs:
            place = self.folder / name
            if place.name == "comparison.safetensors":
                return True  # numbers, of which a bit more or less is known to nobody
            if ask("verify", place, "--pool", self.folder / "in").code == 0:
                return False
        return True

    def _look_at_inputs(self, fault: Fault, disk: FailingDisk, where: str) -> None:
        meant = fault.kind in ("replace", "truncate", "rewrite")
        for name, value in hashes(self.folder / "in").items():
            own = meant and disk.struck is not None and name == disk.struck.name
            if value != self.inputs.get(name) and not own:
                self._violation(where, f"the input {name} was changed", Answer(0, "", ""))

    def _restore(self) -> None:
        for name, value in hashes(self.folder / "in").items():
            if value != self.inputs.get(name):
                shutil.copy2(self.backup / name, self.folder / "in" / name)

    def _again(self, job: Job, rng: random.Random, overwrite: tuple[str, ...], where: str) -> None:
        """Ask once more, now that the disk is well: nothing that failed may be in the way."""
        if rng.random() < (0.8 if job.zoo else 0.5):
            return
        more = overwrite
        if job.name == "compare" or any((self.folder / name).exists() for name in job.outputs):
            more = ("--overwrite",) if job.can_replace else ()
            shutil.rmtree(self.out / "folder", ignore_errors=True)
        answer = self._ask(job, *more)
        found = {n: value for n, value in hashes(self.out).items() if not _is_left(n)}
        if answer.code != 0 or found != self.truths[job].files:
            self._violation(where, "asked again, it does not succeed", answer)

    def _violation(self, where: str, what: str, answer: Answer) -> str:
        self.violations.append(f"{where}: {what}\n{answer.err[-3000:]}")
        return "VIOLATION"


def _is_left(name: str) -> bool:
    return any(part.endswith(LEFT) for part in Path(name).parts) or name.startswith("cache")


VERDICTS = ("right", "clear error", "told by verify", "as read", "VIOLATION")


def table(counts: Counter[tuple[str, str, str]], by: Callable[[tuple[str, str, str]], str],
          heading: str) -> None:  # fmt: skip
    """Print counts."""
    print(f"| {heading} | runs | {' | '.join(VERDICTS)} |")
    print("|---" * (len(VERDICTS) + 2) + "|")
    names = list(dict.fromkeys(by(key) for key in counts))
    for name in [*names, "all"]:
        cells = [
            sum(n for key, n in counts.items() if name in ("all", by(key)) and key[2] == verdict)
            for verdict in VERDICTS
        ]
        print(f"| {name} | {sum(cells)} | {' | '.join(map(str, cells))} |")
    print()


def main() -> None:
    """Run them all, and print who ended how."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands or faults whose name holds this")
    parser.add_argument("--no-zoo", action="store_true", help="small files only")
    parser.add_argument("--messages", action="store_true", help="print every message once")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="stockpot-faults-") as place:
        folder = Path(place).resolve() / "disk"
        prepare(folder, not options.no_zoo)
        jobs = tuple(job for job in JOBS if not (job.zoo and options.no_zoo))
        faults = FAULTS
        if options.only:
            jobs = tuple(job for job in jobs if options.only in job.name) or jobs
            faults = tuple(f for f in FAULTS if options.only in f.name) or FAULTS
        driver = Driver(folder)
        rng = random.Random(options.seed)
        n = 0
        while n < options.runs:
            fault = faults[n % len(faults)]
            job = rng.choice(jobs)
            if (job.zoo or job.name == "compare") and rng.random() < 0.6:
                continue
            n += driver.run(job, fault, rng.randrange(1 << 32))
    if options.messages:
        for message, count in sorted(driver.messages.items()):
            print(f"{count:5d} {message}")
    for violation in driver.violations[:20]:
        print(violation, file=sys.stderr)
    counts = driver.counts
    order = {fault.name: number for number, fault in enumerate(FAULTS)}
    counts = Counter(dict(sorted(counts.items(), key=lambda item: order[item[0][0]])))
    table(counts, lambda key: key[0], "fault")
    order = {job.name: number for number, job in enumerate(JOBS)}
    counts = Counter(dict(sorted(counts.items(), key=lambda item: order[item[0][1]])))
    table(counts, lambda key: key[1], "command")
    print(f"{n} runs in {time.monotonic() - start:.0f} s, violations={len(driver.violations)}")
    sys.exit(bool(driver.violations))


if __name__ == "__main__":
    main()
