"""Do weights in prompts agree with compel's, where both mean the same?

    python bench/compel_weights.py

Parses and encodes prompts on the zoo's base model with Stockpot and with compel (an extra of
development), and prints, prompt by prompt, how far they are apart. See bench/README.md.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.draw import Conditioner, Painter, open_painter, parse_attention
from stockpot.zoo import member

SHARED = (
    "a red heart",
    "a (red) heart",
    "a ((red)) heart",
    "a (red:1.2) heart",
    "a (red:0.5) heart",
    "a (red:0) heart",
    "a (red heart:1.3) on white",
    "(a red heart:1.5)",
    "a (red (heart:1.5):1.2)",
    "a ((red:1.5) heart:0.5), large",
    "(a (red) heart:2)",
    "a [red] heart",
    "a [[red]] heart",
    "a [[[[red]]]] heart",
    "a ([red]) heart",
    "[a (red:1.4) heart]",
    "(red:1.5) (heart:0.5) [white]",
    "a, (b:1.3), c",
    "(red:0), (blue:0.98), [green], [[pink]], large",
    r"a (red\) heart:1.5)",
    r"\(red\) (heart:1.1)",
    "(red:.5) heart",
)


def for_compel(prompt: str) -> str:
    """Say a prompt in compel's words.

    ``(x:1.2)`` is ``(x)1.2``, ``(x)`` is ``(x)+``, ``[x]`` is ``(x)-``. Characters alone are
    rewritten, so that both parsers work on their own.
    """
    held = prompt.replace(r"\(", "\0").replace(r"\)", "\1")
    held = re.sub(r":([\d.]+)\)", "\2\\1\3", held)
    held = held.replace(")", ")+").replace("[", "(").replace("]", ")-")
    held = re.sub("\2([\\d.]+)\3", lambda found: f"){float(found.group(1)):.12g}", held)
    return held.replace("\0", r"\(").replace("\1", r"\)")


def compel_runs(prompt: str) -> list[tuple[str, float]]:
    """Compel's fragments of a web UI's prompt.

    Compel's ``-`` is 0.9 unless told otherwise; here it is the 1 / 1.1 of web UIs.
    """
    from compel.prompt_parser import PromptParser

    parser: Any = PromptParser(attention_plus_base=1.1, attention_minus_base=1 / 1.1)
    (flat,) = parser.parse_conjunction(for_compel(prompt)).prompts
    return [(fragment.text, fragment.weight) for fragment in flat.children]


def our_runs(prompt: str) -> list[tuple[str, float]]:
    """Our runs of the same prompt."""
    return [(run.text, run.weight) for run in parse_attention(prompt)]


def by_letter(runs: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The weight of each letter: compel keeps no spaces, and joins runs of one weight otherwise."""
    return [(c, round(weight, 9)) for text, weight in runs for c in text if not c.isspace()]


class Sides:
    """One prompt, encoded by both.

    Attributes:
        weights: Compel's weight of each token.
        our_weights: Ours, from what weighing did to the encoding.
        ours: Our encoding without restoring the mean.
        restored: Our encoding as web UIs have it by default.
        scaled: Compel's encoding, without what it adds for weights below 1.
        theirs: Compel's encoding.
        expected: Ours plus (1 - weight) · the encoding of an empty prompt: what `scaled` should be,
            because ours is weight · z, and compel's is empty + weight · (z - empty).
    """

    def __init__(self, painter: Painter, prompt: str) -> None:
        from compel import Compel

        parts = painter.parts
        compel: Any = Compel(parts.tokenizer, parts.text_encoder)
        inside = compel.conditioning_provider
        fragments = compel_runs(prompt)
        ids, self.weights, mask = inside.get_token_ids_and_expand_weights(
            [text for text, _ in fragments], [weight for _, weight in fragments], "cpu"
        )
        with torch.no_grad():
            self.scaled = inside.build_weighted_embedding_tensor(ids, self.weights, mask)[0]
            self.theirs = inside.get_embeddings_for_weighted_prompt_fragments(
                [[text for text, _ in fragments]], [[weight for _, weight in fragments]]
            )[0]
            empty = inside.empty_z[0]

        def encoded(text: str, emphasis: str) -> torch.Tensor:
            found = Conditioner(parts, emphasis=emphasis)  # type: ignore[arg-type]
            return found.encode([text])[text].states

        bare = encoded("".join(text for text, _ in our_runs(prompt)), "None")
        self.ours, self.restored = encoded(prompt, "No norm"), encoded(prompt, "Original")
        self.our_weights = (self.ours * bare).sum(1) / (bare * bare).sum(1)
        self.expected = self.ours + (1 - self.weights)[:, None] * empty


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two tensors."""
    return float((a - b).abs().max())


def main() -> None:
    """Compare, print the table, and fail where the shared part differs."""
    with open_checkpoint(member("base").path) as source:
        painter = open_painter(source)
    print("| prompt | runs | token weights | compel's formula | as compel draws | mean restored |")
    print("|---|---|---|---|---|---|")
    bad = []
    for prompt in SHARED:
        same = by_letter(our_runs(prompt)) == by_letter(compel_runs(prompt))
        sides = Sides(painter, prompt)
        weights = apart(sides.our_weights, sides.weights)
        formula = apart(sides.scaled, sides.expected)
        drawn, mean = apart(sides.theirs, sides.expected), apart(sides.restored, sides.ours)
        below = bool((sides.weights < 1).any())
        # What compel draws is its formula, unless a weight is below 1.
        kept = same and max(weights, formula) < 1e-5 and (below or drawn < 1e-5)
        bad += [] if kept else [prompt]
        numbers = (weights, formula, drawn, mean)
        shown = " | ".join("0" if n < 1e-5 else f"{n:.2g}" for n in numbers)
        print(f"| `{prompt}` | {'same' if same else 'DIFFERENT'} | {shown} |")
    print("agreement to 1e-5 where both mean the same:", f"NOT for {bad}" if bad else "kept")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
