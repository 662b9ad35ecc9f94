"""What the zoo is trained on: captioned renders, their captions and a tokenizer for them.

Every part of the zoo sees its own draws (`SEEDS`), so that the judge never saw what the reward
model or the painter saw.
"""

from __future__ import annotations

import html
import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from stockpot.zoo.shapes import STYLES, Scene, all_scenes, caption, render

SEEDS = {"vae": 1, "clip": 2, "judge": 3, "unet": 4, "held-out": 5}
COPIES = {"vae": 4, "clip": 5, "judge": 8, "unet": 10, "held-out": 1}
MAX_LENGTH = 77
SCENES: list[Scene] = list(all_scenes(STYLES))

# Words beyond the captions that keep the vocabulary from being a mere list of answers, and that
# make negative prompts and words of other prompts single tokens.
EXTRA_TEXT = """
a an the of and or with without in at to by for from picture drawing image photo style art shape
shapes one two three bright dark light plain simple clean blurry low high quality best worst
masterpiece detailed colour color colours background foreground small large big tiny huge round
square striped dotted sketch pattern warm cold night day icon logo sticker sks concept object
"""


def _render_share(arguments: tuple[int, int, int, int]) -> np.ndarray:
    seed, copy, start, stop = arguments
    return np.stack(
        [render(SCENES[i], np.random.default_rng([seed, copy, i])) for i in range(start, stop)]
    )


def pictures(work: Path, part: str, processes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Renders of all 3,840 scenes for one part of the zoo, made once and kept in `work`.

    Returns:
        uint8 pictures `[n, 32, 32, 3]` and int64 indices into `SCENES` `[n]`.
    """
    index = scene_indices(part)
    file = work / f"renders-{part}.npy"
    if not file.exists():
        step = 480
        shares = [
            (SEEDS[part], copy, start, start + step)
            for copy in range(COPIES[part])
            for start in range(0, len(SCENES), step)
        ]
        with ProcessPoolExecutor(processes) as pool:
            np.save(file, np.concatenate(list(pool.map(_render_share, shares))))
    return np.load(file), index


def scene_indices(part: str) -> np.ndarray:
    """Which of `SCENES` each picture of a part shows, int64 `[n]`."""
    return np.tile(np.arange(len(SCENES)), COPIES[part])


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption as people write them: in two forms, often with something left unsaid."""
    if rng.random() < 0.5:
        return caption(scene)
    omit = {
        name
        for name, chance in (("style", 0.25), ("size", 0.25), ("background", 0.25))
        if rng.random() < chance
    }
    return caption(scene, omit=omit, template="tags" if rng.random() < 0.4 else "sentence")


def every_caption() -> list[str]:
    """All captions that `random_caption` can give, sorted, without repeats."""
    omits = [
        {name for name, bit in zip(("style", "size", "background"), bits, strict=True) if bit}
        for bits in np.ndindex(2, 2, 2)
    ]
    return sorted(
        {
            caption(scene, omit=omit, template=template)
            for scene in SCENES
            for omit in omits
            for template in ("sentence", "tags")
        }
    )


def build_tokenizer(bpe_table: Path, folder: Path) -> None:
    """Shrink CLIP's byte-pair table to this corpus and save it as `vocab.json` and `merges.txt`.

    All 512 byte tokens stay, so that any text can be tokenised; of the merges only those stay
    that tokenising the corpus' words uses.

    Args:
        bpe_table: `bpe_simple_vocab_16e6.txt.gz` of the original CLIP code (MIT licence).
        folder: Where the tokenizer is saved.
    """
    import gzip

    lines = gzip.open(bpe_table, "rt", encoding="utf-8").read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    rank = {pair: i for i, pair in enumerate(merges)}
    text = html.unescape(" ".join(every_caption()) + " " + EXTRA_TEXT)
    words = sorted({w for w in "".join(c if c.isalnum() else " " for c in text).lower().split()})
    used: set[tuple[str, str]] = set()
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best, pair = min((rank.get(pair, len(rank)), pair) for pair in pairs)
            if best == len(rank):
                break
            used.add(pair)
            at = pairs.index(pair)
            parts[at : at + 2] = ["".join(pair)]
    kept = sorted(used, key=rank.__getitem__)
    base = _byte_symbols()
    tokens = [*base, *(b + "</w>" for b in base), *("".join(p) for p in kept)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    merges_text = "\n".join(["#version: 0.2", *(" ".join(p) for p in kept), ""])
    (folder / "merges.txt").write_text(merges_text, encoding="utf-8")
    CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_LENGTH).save_pretrained(folder)


def _byte_symbols() -> list[str]:
    """One printable character for each byte, printable ASCII and Latin-1 standing for themselves.

    This is the order in which CLIP and GPT-2 number their byte tokens.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """Token ids, int64 `[n, 77]`, padded with the end token as Stable Diffusion 1 does."""
    out = tokenizer(
        texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="np"
    )
    return out["input_ids"].astype(np.int64)
