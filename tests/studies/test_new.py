"""Studies of mixes against parents, where the answer is planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.recipes import linear, make_recipe, model
from stockpot.studies import STUDIES, Answer, Classifier, Setting, plain_data
from stockpot.studies.span import usable
from stockpot.studies.variance import noise_of
from stockpot.tune import Exam, Task
from stockpot.draw import DrawSettings, Request
from stockpot.zoo import extras

SIDE = 32


def exam(*prompts: str, n: int = 4, cfg: float = 7.0, steps: int = 8) -> Exam:
    settings = DrawSettings(steps=steps, cfg=cfg, width=SIDE, height=SIDE)
    return Exam(tuple(
        Task(f"p{i}#{j}", f"p{i}", Request(prompt, 1000 + 10 * i + j, settings))
        for j in range(n)
        for i, prompt in enumerate(prompts)
    ))  # fmt: skip


def flat(value: float) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), value)


def speckles(rng: np.random.Generator, sd: float) -> np.ndarray:
    return np.repeat(rng.normal(0, sd, (SIDE, SIDE, 1)), 3, axis=2)


PROMPTS = [f"thing {i}" for i in range(12)]


def answer(name: str, setting: Setting) -> tuple[Answer, dict[str, Any]]:
    study = STUDIES[name]
    assert study.missing(setting) == ""
    found = study.run(setting)
    assert setting.gallery.n_drawn <= study.cost(setting)
    assert found.words and all(line.endswith(".") for line in found.words)
    for line in found.words: print(" *", line)
    return found, json.loads(json.dumps(plain_data(found.data), allow_nan=False))


def tuned(setting: Setting, **shares: float) -> Any:
    names = {name.replace("-", "_"): name for name in setting.models}
    expr = linear([model(names[n]) for n in shares], list(shares.values()))
    files = {n: setting.pool.files[n] for n in setting.models}
    return make_recipe({"unet": expr, "te": model(setting.models[0])}, files)


# e

def washed(mix_sd: float, tuned_sd: float):
    def paint(canvas):
        sd = 24.0
        if canvas.is_mix:
            sd = tuned_sd if len(canvas.unet) == 2 else mix_sd
        return flat(128) + speckles(canvas.noise(canvas.name, canvas.task.request.seed), sd), 0.0
    return paint


def test_detail_lost(setting: Setting, painted) -> None:
    recipe = tuned(setting, style_outline=0.75, te_trained=0.25)
    own = painted(washed(24, 12), exam=exam(*PROMPTS), tuned=recipe)
    found, data = answer("detail", own)
    own = painted(washed(24, 24), exam=exam(*PROMPTS))
    found, data = answer("detail", own)


def test_variance(setting: Setting, painted) -> None:
    def paint(canvas):
        spread = 0.5 if canvas.is_mix else 1.0
        if "te-trained" in canvas.te: spread *= 1 - 0.4 * canvas.te["te-trained"]
        rng = np.random.default_rng(canvas.task.request.seed)
        v = 128 + spread * rng.normal(0, 20) + (10 if canvas.is_mix else 0)
        return flat(v) + speckles(rng, 3), 0.0
    own = painted(paint, exam=exam(*PROMPTS))
    answer("variance", own)


COLOURS, SHAPES = ("red", "green", "blue"), ("cube", "ball", "cone")

def toy(known=None):
    def asked(prompt):
        return {n: w for n, ws in (("colour", COLOURS), ("shape", SHAPES)) for w in ws if w in prompt}
    def look(pictures):
        rows = {}
        for k, n in enumerate(("colour", "shape")):
            a = np.full((len(pictures), 3), np.log(0.05))
            for i, p in enumerate(pictures): a[i, int(p[0, k, 0])] = np.log(.9)
            rows[n] = a
        return rows
    return Classifier("toy", {"colour": COLOURS, "shape": SHAPES}, asked, look, True, known)

def test_concepts(setting, painted):
    def paint(canvas):
        words = canvas.task.request.prompt.split()
        c, s = COLOURS.index(words[0]), SHAPES.index(words[1])
        rng = canvas.noise(canvas.name, canvas.task.request.seed, words)
        right = .9 if canvas.is_mix else .5
        if rng.random() > right: s = (s + 1 + rng.integers(2)) % 3
        if canvas.name == "content-warm" and c == 2: c = 0
        v = flat(0); v[0,0,0]=c; v[0,1,0]=s
        return v, 0.0
    ps = [f"{c} {s}" for c in COLOURS for s in SHAPES]
    own = painted(paint, exam=exam(*ps, n=8), classifier=toy())
    answer("concepts", own)


def test_range(setting, painted):
    def paint(canvas):
        s = canvas.task.request.settings
        hi = 16 if canvas.is_mix else 8
        score = 1.0 if 2 <= s.cfg <= hi else 0.0
        score *= min(1, s.steps / 6) * (1 if s.width <= 40 else 0.2)
        return flat(100), score + canvas.noise(canvas.name, canvas.task.key).normal(0, .05)
    own = painted(paint, exam=exam(*PROMPTS))
    answer("range", own)


def test_adapters(setting, painted):
    paths = {e.name: e.path for e in extras()}
    def paint(canvas):
        p = canvas.task.request.prompt
        v = flat(128) + speckles(canvas.noise(canvas.name, canvas.task.request.seed), 8)
        if "lora:lora-striped" in p: v[::2] += 60 * (.8 if canvas.is_mix else 1)
        if "purple-moon" in p: v[:, ::2] += 0 if canvas.is_mix else 40
        return v, 0.0
    own = painted(paint, exam=exam(*PROMPTS), loras={"lora-striped": paths["lora-striped"]}, embeddings={"purple-moon": paths["purple-moon"]})
    answer("adapters", own)


def test_parents(setting, painted):
    def pic(name, seed): return flat(128) + speckles(np.random.default_rng(hash_(name, seed)), 30)
    import zlib
    def hash_(*a): return zlib.crc32(str(a).encode())
    def paint(canvas):
        seed = canvas.task.request.seed
        own = {n: pic(n, seed) for n in canvas.unet}
        if canvas.is_mix:
            win = setting.models[int(canvas.task.payload[1:]) % 4]
            if win in own: return .8*own[win] + .2*np.mean(list(own.values()), axis=0), 0
            return np.mean(list(own.values()), axis=0), 0
        return own[canvas.name], 0
    own = painted(paint, exam=exam(*PROMPTS))
    answer("parents", own)
