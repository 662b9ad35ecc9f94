# ruff: noqa: E501 - rows of a table stay on one line
"""Every kind of bad input, tried as a user would: one clear message, no traceback, nothing left.

    python bench/bad_inputs.py                # all, some of them as processes of their own
    python bench/bad_inputs.py --every 7      # each seventh, for the tests
    python bench/bad_inputs.py --messages     # what was answered

For each: the exit code is 1, or 2 where the command line itself is wrong; standard error has a
message that names what it is about; there is no traceback; nothing was written; the inputs are what
they were; and nothing that came from a file was run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from asking import Answer, ask
from bad_files import CHECKPOINTS, NAN, PAYLOADS, PICKLES, PICTURES, RECIPES, safetensors
from faults import prepare

_O = "-o out/o.safetensors"
_KNOWN = Path(sys.executable).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        kind: Where it stands in the table.
        name: What is wrong.
        arguments: The command; a `~` stands for a blank inside an argument.
        says: A part of the message, or several of which one must be there, joined by ` or `.
        code: The exit code.
        needs: A system call's condition, such as `no root`.
    """

    kind: str
    name: str
    arguments: str
    says: str = ""
    code: int = 1
    needs: str = ""


def checkpoint_cases(folder: Path) -> list[Case]:
    """Bad checkpoints, each given to one command of several in turn."""
    good = folder / "in" / "a.safetensors"
    bad = folder / "bad"
    ways = (
        f"mean in/a.safetensors {{}} {_O}",
        f"merge -e lerp(a,b,0.5) --pool in/a.safetensors --pool b={{}} {_O}",
        f"convert {{}} {_O} --dtype fp32",
        "compare in/a.safetensors in/b.safetensors {} -o out/seen",
        "verify {}",
        f"replay {{}} --pool in {_O}",
        f"prune {{}} {_O}",
        "explain in/a.safetensors --pool {} -o out/made",
        f"repair {{}} {_O}",
        "recipe of {}",
        f"swap in/z0.safetensors --vae {{}} {_O}",
    )
    cases = []
    for number, (name, (make, says)) in enumerate(CHECKPOINTS.items()):
        path = bad / f"{name}.safetensors".replace(" ", "-").replace("^", "")
        path.write_bytes(make(good))
        for step in (0, 3, 7):
            way = ways[(number + step) % len(ways)]
            cases.append(Case("checkpoint", name, way.format(f"bad/{path.name}"), says))
    for number, (name, (made, says)) in enumerate(PICKLES.items()):
        path = bad / f"{name}.ckpt".replace(" ", "-")
        path.write_bytes(made())
        for step in (0, 5):
            way = ways[(number + step) % len(ways)]
            cases.append(Case("torch file", name, way.format(f"bad/{path.name}"), says))
    return cases


def model_cases(folder: Path) -> list[Case]:
    """Well-formed checkpoints that do not fit, or whose values are no numbers."""
    bad = folder / "bad"
    (bad / "nan.safetensors").write_bytes(NAN)
    good = {f"k{i}.weight": ("F16", [12, 20]) for i in range(4)} | {"n.bias": ("F16", [33])}
    made = {
        "missing": {key: value for key, value in good.items() if key != "n.bias"},
        "shape": good | {"n.bias": ("F16", [34])},
        "integers": good | {"n.bias": ("I64", [33])},
        "nothing": {},
    }
    for name, tensors in made.items():
        (bad / f"{name}.safetensors").write_bytes(safetensors(tensors))
    garbage = {"stockpot.recipe": "\x00{", "stockpot.provenance": "[" * 99999,
               "sd_merge_recipe": "{", "modelspec.architecture": "🍲" * 99}  # fmt: skip
    (bad / "record.safetensors").write_bytes(safetensors(good, metadata=garbage))
    say = "model"
    return [
        Case(say, "NaN", f"mean in/a.safetensors bad/nan.safetensors {_O}", "must be finite"),
        Case(say, "NaN, a method", f"merge -e ties(a,nan) --pool in/a.safetensors "
             f"--pool bad/nan.safetensors {_O}", "must be finite"),
        Case(say, "a missing key", f"mean in/a.safetensors bad/missing.safetensors {_O}", "n.bias"),
        Case(say, "another shape", f"mean in/a.safetensors bad/shape.safetensors {_O}", "n.bias"),
        Case(say, "integers for weights", f"mean in/a.safetensors bad/integers.safetensors {_O}",
             "n.bias"),
        Case(say, "no tensors", f"mean bad/nothing.safetensors bad/nothing.safetensors {_O}", ""),
        Case(say, "another architecture", f"mean in/a.safetensors in/z0.safetensors {_O}", ""),
        Case(say, "no such part", f"extract in/a.safetensors vae {_O}", ""),
        Case(say, "a donor without the part", f"swap in/z0.safetensors --te in/a.safetensors {_O}",
             ""),
        Case(say, "a folder of one that has no form", "convert in/a.safetensors -o out/folder", ""),
        Case(say, "a garbled record", "verify bad/record.safetensors", ""),
        Case(say, "a garbled record", "recipe of bad/record.safetensors", ""),
        Case(say, "a garbled record", f"replay bad/record.safetensors --pool in {_O}", ""),
        Case(say, "no record", f"replay in/a.safetensors --pool in {_O}", "no recipe"),
        Case(say, "inputs that are nowhere", f"replay in/m.safetensors --pool out {_O}", ""),
        Case(say, "too large for the type",
             f"merge -e 100000*a-99999*b --pool in/a.safetensors --pool in/b.safetensors {_O} "
             "--dtype fp8_e4m3", "too large"),
        Case(say, "nothing to mend", f"repair in/z0.safetensors {_O}", ""),
        Case(say, "not for drawing", "draw in/a.safetensors --prompt cat -o out/p", ""),
    ]  # fmt: skip


def recipe_cases(folder: Path) -> list[Case]:
    """Bad recipes, given to three commands."""
    cases = []
    for number, (name, (text, says)) in enumerate(RECIPES.items()):
        path = folder / "in" / f"bad-{number}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        cases.append(Case("recipe", name, f"merge in/{path.name} {_O}", says))
        if name not in ("a file that is not there", "a hole", "a ratio out of range",
                        "blocks of another length", "a wrong sha256"):  # fmt: skip
            second = ("recipe fold {} --json", "recipe lint {}", "recipe show {}")[number % 3]
            if "path" not in name and "device" not in name and "share" not in name:
                cases.append(Case("recipe", name, second.format(f"in/{path.name}"), ""))
    expressions = ("a+", "lerp(a)", "a b", "lerp(a,b,x)", "'", "a[0]", "__import__('os')", "mean()",
                   "a/0", "9" * 5000 + "*a", "lerp(a,b,nan)", "a|", "ties(a,b,keep=7)", "🍲")  # fmt: skip
    for name in expressions:
        shown = name if len(name) < 40 else f"{name[:9]}…"
        arguments = f"merge -e {name.replace(' ', '~')} --pool in/a.safetensors"
        cases.append(Case("expression", shown, f"{arguments} --pool in/b.safetensors {_O}"))
    return cases


def place_cases(folder: Path) -> list[Case]:
    """Files that are none, and outputs that cannot be."""
    bad = folder / "bad"
    (bad / "loop.safetensors").symlink_to("loop.safetensors")
    (bad / "dangling.safetensors").symlink_to("nowhere.safetensors")
    os.mkfifo(bad / "pipe.safetensors")
    (bad / "folder.safetensors").mkdir()
    (bad / "folder").mkdir()
    (bad / "index").mkdir()
    for name, text in {
        "escapes": '{"weight_map": {"w": "../../in/a.safetensors"}}', "lists": "[]",
        "lacks": '{"weight_map": {"w": "nowhere.safetensors"}}', "garbage": "{",
    }.items():  # fmt: skip
        (bad / "index" / f"{name}.safetensors.index.json").write_text(text)
    taken = folder / "taken"
    taken.mkdir()
    (taken / "o.safetensors").write_bytes(b"precious")
    (taken / "folder").mkdir()
    os.mkfifo(taken / "pipe")
    (taken / "page.svg").write_bytes(b"precious")
    (taken / "seen").mkdir()
    (taken / "seen" / "comparison.safetensors").write_bytes(b"precious")
    locked = folder / "locked"
    locked.mkdir()
    shutil.copy(folder / "in" / "b.safetensors", locked / "b.safetensors")
    (locked / "b.safetensors").chmod(0)
    locked.chmod(0o500)
    mean = "mean in/a.safetensors in/b.safetensors -o"
    say, out = "input's place", "output's place"
    return [
        Case(say, "not there", f"mean in/a.safetensors in/nowhere.safetensors {_O}", "nowhere"),
        Case(say, "not there", "inspect in/nowhere.safetensors", "nowhere"),
        Case(say, "not there", "compare in/nowhere.safetensors in/a.safetensors -o out/s",
             "nowhere"),
        Case(say, "a link in a circle", f"mean in/a.safetensors bad/loop.safetensors {_O}", "loop"),
        Case(say, "a link to nothing", f"mean in/a.safetensors bad/dangling.safetensors {_O}",
             "dangling"),
        Case(say, "a pipe", f"mean in/a.safetensors bad/pipe.safetensors {_O}", "must be a file"),
        Case(say, "a pipe", "verify bad/pipe.safetensors", "must be a file"),
        Case(say, "a device", f"mean in/a.safetensors /dev/zero {_O}", "must be a file"),
        Case(say, "a device for a recipe", f"merge /dev/null {_O}", ""),
        Case(say, "an empty folder", f"mean in/a.safetensors bad/folder {_O}", "must hold one"),
        Case(say, "a folder with a file's name",
             f"mean in/a.safetensors bad/folder.safetensors {_O}", "must hold one"),
        Case(say, "a folder for a recipe", f"merge bad/folder {_O}", ""),
        Case(say, "an index out of its folder",
             f"convert bad/index/escapes.safetensors.index.json {_O}", "beside the index"),
        Case(say, "an index that is a list",
             f"convert bad/index/lists.safetensors.index.json {_O}", "weight_map"),
        Case(say, "an index of missing shards",
             f"convert bad/index/lacks.safetensors.index.json {_O}", "nowhere"),
        Case(say, "an index that is no JSON",
             f"convert bad/index/garbage.safetensors.index.json {_O}", "not JSON"),
        Case(say, "a name that is not UTF-8", f"mean in/a.safetensors in/\udcff.safetensors {_O}",
             ""),
        Case(say, "a name of 500 characters", f"mean in/a.safetensors {'x' * 500} {_O}", ""),
        Case(say, "a name with escapes", f"mean in/a.safetensors \x1b[31mred {_O}", "\\x1b"),
        Case(say, "no permission", f"mean in/a.safetensors locked/b.safetensors {_O}",
             "Permission denied", needs="no root"),
        Case(say, "no pool", "verify in/m.safetensors --pool nowhere", "must be a folder"),
        Case(say, "a pool that is a file", "verify in/m.safetensors --pool in/a.safetensors",
             "must be a folder"),
        Case(out, "there already", f"{mean} taken/o.safetensors", "--overwrite"),
        Case(out, "there already, a recipe's",
             "recipe graph in/recipe.yaml -o taken/page.svg", "--overwrite"),
        Case(out, "there already, a comparison",
             "compare in/a.safetensors in/b.safetensors -o taken/seen", "there is a result already"),
        Case(out, "a folder", f"{mean} taken/folder --overwrite", "is a folder"),
        Case(out, "a folder, and never replaced", "convert in/z0.safetensors -o taken/folder",
             "is a folder or name is taken"),
        Case(out, "in no folder", f"{mean} nowhere/o.safetensors", "must exist"),
        Case(out, "below a file", f"{mean} in/a.safetensors/o.safetensors", ""),
        Case(out, "an input", f"{mean} in/a.safetensors --overwrite", "never written to"),
        Case(out, "an input by a link", f"{mean} taken/../in/a.safetensors --overwrite",
             "never written to"),
        Case(out, "a pipe", f"{mean} taken/pipe --overwrite", "must be a file"),
        Case(out, "a page over a pipe", "recipe graph in/recipe.yaml -o taken/pipe --overwrite",
             "must be a file"),
        Case(out, "a name of 300 characters", f"{mean} out/{'x' * 300}", "too long"),
        Case(out, "an empty name", "mean in/a.safetensors in/b.safetensors -o ~", "", 1),
        Case(out, "no permission", f"{mean} locked/o.safetensors", "Permission", needs="no root"),
        Case(out, "no permission for a page", "recipe graph in/recipe.yaml -o locked/o.svg",
             "Permission", needs="no root"),
    ]  # fmt: skip


def usage_cases() -> list[Case]:
    """Command lines that say the impossible."""
    two = "in/a.safetensors in/b.safetensors"
    lines = {
        "no such command": "blend in/a.safetensors",
        "no such option": f"mean {two} {_O} --fast",
        "no output": f"mean {two}",
        "no inputs": f"mean {_O}",
        "a type of its own": f"mean {two} {_O} --dtype fp12",
        "a memory of words": f"mean {two} {_O} --memory lots",
        "a memory of nothing": f"mean {two} {_O} --memory 0",
        "a memory below zero": f"mean {two} {_O} --memory -1GB",
        "1 byte of memory": f"mean {two} {_O} --memory 1",
        "threads below zero": f"mean {two} {_O} --threads -3",
        "threads of words": f"mean {two} {_O} --threads two",
        "a recipe and an expression": f"merge in/recipe.yaml -e a {_O}",
        "neither": f"merge {_O}",
        "a pool without a name": f"merge -e a --pool = {_O}",
        "a name twice": f"merge -e a --pool a=in/a.safetensors --pool a=in/b.safetensors {_O}",
        "a type of no part": f"mean {two} {_O} --dtype hair=fp16",
        "nothing to extract": f"extract in/z0.safetensors {_O}",
        "an unknown part to extract": f"extract in/z0.safetensors hair {_O}",
        "nothing to swap": f"swap in/z0.safetensors {_O}",
        "no such method": "methods blendify",
        "no such layout": "recipe fold in/recipe.yaml --layout sd9",
        "no such export": "recipe export in/recipe.yaml --to word",
        "no such importer": "recipe import in/recipe.yaml --from word -o out/r.yaml",
        "a base that is not there": f"compare {two} -o out/seen --base nowhere.safetensors",
        "nothing added to": f"compare {two} -o out/seen --add",
        "no comparison": "convergence in/nowhere.safetensors",
        "a checkpoint for a comparison": "convergence in/a.safetensors",
        "a checkpoint for a comparison, to explain": "explain a --comparison in/a.safetensors",
        "a model that the comparison lacks": "explain x --comparison in/b.safetensors",
        "no pool to explain": "explain in/m.safetensors",
        "an unknown scorer": "score in/p.png --score beauty",
        "no scorer": "score in/p.png",
        "a scorer without files": "score in/p.png --score imagereward --scorers out",
        "no picture": "score in/nowhere.png --score piqe",
        "a checkpoint for a picture": "score in/a.safetensors --score piqe",
        "a folder of no pictures": "score bad/folder --score piqe",
        "nothing to draw": "draw in/z0.safetensors -o out/p",
        "a sampler of its own": "draw in/z0.safetensors --prompt a --sampler Magic -o out/p",
        "a size of words": "draw in/z0.safetensors --prompt a --size large -o out/p",
        "a size of nothing": "draw in/z0.safetensors --prompt a --size 0x0 -o out/p",
        "no steps": "draw in/z0.safetensors --prompt a --steps 0 -o out/p",
        "a card for no device": "draw in/z0.safetensors --prompt a --device abacus -o out/p",
        "a type of its own, to draw": "draw in/z0.safetensors --prompt a --dtype fp9 -o out/p",
        "no tokenizer": "draw in/z0.safetensors --prompt a --tokenizer nowhere -o out/p",
        "no description": "draw in/z0.safetensors --prompt a --config nowhere -o out/p",
        "a field of no payload": "draw in/z0.safetensors --prompt a --set hair=long -o out/p",
        "a server that is none": "draw --prompt a --via ftp://example.invalid -o out/p",
        "a server that is away": "draw --prompt a --via http://127.0.0.1:9 --timeout 2 -o out/p",
        "no wildcards": "draw in/z0.safetensors --prompt __x__ --wildcards nowhere -o out/p",
        "no folder of LoRAs": "draw in/z0.safetensors --prompt <lora:x:1> --loras nowhere -o out/p",
        "a grid of no axis": "grid in/z0.safetensors --prompt a -x hair=1-2 -o out/g",
        "a grid of no values": "grid in/z0.safetensors --prompt a -x seed= -o out/g",
        "a grid of a billion": "grid in/z0.safetensors --prompt a -x seed=1-1000000000 -o out/g",
        "brackets that stay open, in a file": "recipe same in/nowhere.yaml in/recipe.yaml",
    }
    return [Case("command line", name, line, code=-2) for name, line in lines.items()]


def request_cases(folder: Path) -> list[Case]:
    """Bad requests and pictures."""
    cases = []
    for number, (name, (text, says)) in enumerate(PAYLOADS.items()):
        path = folder / "in" / f"bad-{number}.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        draw = f"draw in/z0.safetensors --payload in/{path.name} -o out/p"
        cases.append(Case("payload", name, draw, says))
    for number, (name, (made, _)) in enumerate(PICTURES.items()):
        path = folder / "in" / f"bad-{number}.png"
        path.write_bytes(made())
        draw = f"draw in/z0.safetensors --infotext in/{path.name} -o out/p"
        cases.append(Case("picture", f"{name}, to draw", draw))
        if name in ("an empty picture", "a cut picture", "a picture of 60000 x 60000",
                    "text in place of a picture", "wrong check sums"):  # fmt: skip
            cases.append(Case("picture", name, f"score in/{path.name} --score piqe"))
    for name in ("lora", "embedding"):
        folder_of = folder / "bad" / f"{name}s"
        folder_of.mkdir()
        for kind, data in {"empty": b"", "garbage": b"\xff" * 99}.items():
            (folder_of / f"{kind}.safetensors").write_bytes(data)
            prompt = f"<lora:{kind}:1>" if name == "lora" else kind
            draw = f"draw in/z0.safetensors --prompt {prompt} --{name}s bad/{name}s -o out/p"
            cases.append(Case(name, kind, draw))
    return cases


def digests(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder; of links and pipes only that they are there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
        found[str(path)] = hashlib.sha1(path.read_bytes()).hexdigest() if plain else ""
    return found


def fault_of(case: Case, answer: Answer, folder: Path) -> str:
    """What is wrong with an answer; empty where it is as it must be."""
    if answer.code == -1 or "Traceback" in answer.err:
        return "a traceback"
    wanted = (1, 2) if case.code == -2 else (case.code,)
    if answer.code not in wanted:
        return f"exit code {answer.code}"
    text = re.sub(r"[\s│]+", " ", answer.err + answer.out)
    if answer.code == 2:
        if not re.search(r"Error|Invalid|No such|Missing", text):
            return "no message of usage"
    elif not answer.errors and case.arguments.split()[0] not in ("inspect", "verify", "repair"):
        return "no message"
    if case.says and not any(part in text for part in case.says.split(" or ")):
        return f"the message does not say {case.says!r}"
    if len(answer.errors) > 6:
        return "a flood of messages"
    if any(len(line) > 1500 for line in answer.errors):
        return "an endless message"
    if not text.isprintable():
        return "characters that a terminal obeys"
    left = [path for path in (folder / "out").rglob("*") if path.is_file()]
    if left:
        return f"something is left: {left[0].name}"
    return "it ran" if list(folder.rglob("it-ran")) or Path("it-ran").exists() else ""


def _show(case: Case, answer: Answer, fault: str) -> None:
    told = (answer.err.strip() or answer.out.strip())[-1500:]
    print(
        f"{fault or 'good'}: {case.kind}, {case.name}: {ascii(case.arguments)[:200]}: {answer.code}"
    )
    for line in told.split("\n"):
        print("   ", line.encode("ascii", "backslashreplace").decode())


def as_process(words: list[str], folder: Path) -> Answer:
    """Ask in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "stockpot", *words], cwd=folder, capture_output=True, text=True,
        timeout=120, errors="replace",
    )  # fmt: skip
    return Answer(run.returncode, run.stdout, run.stderr)


def main() -> None:
    """Try them all, and print how many of each kind were answered well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="try each so manieth")
    parser.add_argument("--processes", type=int, default=20, help="how many as real processes")
    parser.add_argument("--only", default="", help="kinds or names that hold this")
    parser.add_argument("--messages", action="store_true", help="print every answer")
    options = parser.parse_args()
    start = time.monotonic()
    tried, bad = Counter[str](), Counter[str]()
    names: dict[str, set[str]] = {}
    n_processes = 0
    with tempfile.TemporaryDirectory(prefix="stockpot-bad-") as place:
        folder = Path(place).resolve() / "disk"
        prepare(folder, zoo=True)
        (folder / "bad").mkdir()
        os.environ["STOCKPOT_CACHE"] = str(folder / "cache")
        cases = [
            *checkpoint_cases(folder), *model_cases(folder), *recipe_cases(folder),
            *place_cases(folder), *usage_cases(), *request_cases(folder),
        ]  # fmt: skip
        cases = [c for c in cases if options.only in c.kind or options.only in c.name]
        cases = [c for c in cases if not (c.needs == "no root" and os.geteuid() == 0)]
        chosen = cases[:: options.every]
        step = max(1, len(chosen) // options.processes) if options.processes else len(chosen) + 1
        kept = ("in", "bad", "taken", "locked")
        before = {name: digests(folder / name) for name in kept}
        for number, case in enumerate(chosen):
            shutil.rmtree(folder / "out", ignore_errors=True)
            (folder / "out").mkdir()
            words = [word.replace("~", " ").strip() for word in case.arguments.split(" ")]
            if number % step == step - 1:
                answer, n_processes = as_process(words, folder), n_processes + 1
            else:
                answer = ask(*words, folder=folder)
            fault = fault_of(case, answer, folder)
            changed = [name for name in kept if digests(folder / name) != before[name]]
            if changed and not fault:
                fault = f"files in {changed} were changed"
            tried[case.kind] += 1
            names.setdefault(case.kind, set()).add(case.name)
            bad[case.kind] += bool(fault)
            if fault or options.messages:
                _show(case, answer, fault)
        (folder / "locked").chmod(0o700)
    print("| kind | kinds of fault | commands tried | answered well | not so |")
    print("|---|---|---|---|---|")
    for kind in tried:
        print(f"| {kind} | {len(names[kind])} | {tried[kind]} | {tried[kind] - bad[kind]} | "
              f"{bad[kind]} |")  # fmt: skip
    n_kinds, n_bad = sum(map(len, names.values())), sum(bad.values())
    print(
        f"\n{n_kinds} kinds in {sum(tried.values())} commands, {n_processes} of them as processes"
    )
    print(f"{time.monotonic() - start:.0f} s; not answered well: {n_bad}")
    sys.exit(bool(n_bad))


if __name__ == "__main__":
    main()
