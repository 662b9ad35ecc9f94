"""Study f: bias and variance, seen where prompts ask for nothing or for words at random.

The author of AstolfoMix looked at pictures of random content: one mix drew noisy fragments, the
tuned one identifiable but blurred pictures. And he suspected that training a text encoder buys its
trigger words with variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from stockpot.recipes import Recipe
from stockpot.report import Chart, Curve, Section, Table, TableRow
from stockpot.scores import Picture, plain_prompt
from stockpot.studies._base import Answer, Setting, Study, own_encoders
from stockpot.studies.contrasts import LEVEL, Contrast, contrast_all, percent, percent_text
from stockpot.studies.measures import shrink
from stockpot.studies.statistics import Interval, bootstrap_means, holm, sign_flips
from stockpot.studies.tables import contrast_table
from stockpot.tune import Task

__all__ = ["VARIANCE", "noise_of"]

Doubles = npt.NDArray[np.float64]

_EMPTY, _RANDOM = "no prompt", "random words"
_N_EMPTY = 64
_N_PROMPTS, _N_SEEDS = 16, 4
_MOST_ENCODERS = 4
_SIDE = 32
_MASK = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
_MIX, _TUNED, _PARENTS = "the mix", "the tuned mix", "the parents"
_SPREAD, _NOISE = "spread of pixels", "noise"
_COMPARED = {
    "less": "less diverse than",
    "more": "more diverse than",
    "alike": "as diverse as",
    "cannot tell": "perhaps as diverse as",
}
_FEATURES, _CONCEPTS, _SURE = "spread of features", "spread of concepts", "surest word"


def noise_of(picture: Picture) -> float:
    """Estimate the noise of a picture, as the standard deviation of brightness (Immerkær, 1996).

    A mask that is blind to edges is applied: the difference of two Laplacians. Structures of one
    pixel count as noise.

    Args:
        picture: uint8 `[height, width, 3]`, 3 pixels or more each way.

    Returns:
        0 to 1.

    Example:
        >>> noise_of(np.full((8, 8, 3), 128, np.uint8))
        0.0
    """
    grey = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    height, width = grey.shape
    found = sum(
        _MASK[i, j] * grey[i : height - 2 + i, j : width - 2 + j]
        for i in range(3)
        for j in range(3)
    )
    scale = np.sqrt(np.pi / 2) / (6 * (height - 2) * (width - 2))
    return round(float(scale * np.abs(found).sum()), 12)


def _missing(setting: Setting) -> str:
    n = len(setting.models)
    return "" if n >= 2 else f"at least two models to mix are needed, but there are {n}"


def _tasks(setting: Setting) -> dict[str, list[Task]]:
    """Requests with the first one's settings and fresh seeds; their payload is their prompt."""
    first = setting.exam.tasks[0]
    rng = np.random.default_rng(setting.seed)
    seeds = [int(seed) for seed in rng.choice(1 << 31, _N_EMPTY, replace=False)]
    lengths, words = [], set()
    for task in setting.exam.tasks:
        said = plain_prompt(task.request.prompt).replace(",", " ").split()
        lengths.append(len(said))
        words.update(said)
    known = sorted(words)
    prompts = [
        " ".join(rng.permutation(known)[: max(1, int(rng.choice(lengths)))]) if known else ""
        for _ in range(_N_PROMPTS)
    ]

    def asked(prompt: str, seed: int, name: str, payload: str) -> Task:
        settings = replace(first.request.settings, negative="")
        # Scorers are asked about a prompt of the exam: their marks do not count here, but some
        # refuse an empty one.
        about = first.score_prompt or first.request.prompt
        return Task(name, payload, replace(first.request, prompt=prompt, seed=seed,
                                           settings=settings), about)  # fmt: skip

    empty = [asked("", seed, f"empty#{i}", f"empty {i}") for i, seed in enumerate(seeds)]
    random = [
        asked(prompt, seeds[_N_SEEDS * i + j], f"random {i}#{j}", f"random {i}")
        for i, prompt in enumerate(prompts)
        for j in range(_N_SEEDS)
    ]
    return {_EMPTY: empty, _RANDOM: random}


def _run(setting: Setting) -> Answer:
    tasks = _tasks(setting)
    parents = {name: _measured(setting, setting.alone(name), tasks) for name in setting.models}
    mixes = {label: _measured(setting, one, tasks) for label, one in setting.mixes().items()}
    measures = [key[1] for key in next(iter(parents.values())) if key[0] == _EMPTY]
    groups = {kind: [task.payload for task in own] for kind, own in tasks.items()}
    pairs, of = {}, {}
    for kind in tasks:
        for measure in measures:
            mean = np.mean([one[kind, measure] for one in parents.values()], axis=0)
            against = [(_MIX, _PARENTS, mixes[_MIX][kind, measure], mean)]
            if _TUNED in mixes:
                own = mixes[_TUNED][kind, measure]
                against += [(_TUNED, _PARENTS, own, mean),
                            (_TUNED, _MIX, own, mixes[_MIX][kind, measure])]  # fmt: skip
            for label, other, a, b in against:
                name = f"{measure} of {label} against {other}, {kind}"
                pairs[name], of[name] = (a, b), groups[kind]
    found = contrast_all(pairs, of, n_permutations=setting.n_permutations, seed=setting.seed)
    bias = _biases(setting, tasks[_EMPTY])
    encoders = _encoders(setting, tasks, groups)
    levels = {
        label: {f"{measure}, {kind}": one[kind, measure].mean() for kind in tasks
                for measure in measures}
        for label, one in {**parents, **mixes}.items()
    }  # fmt: skip
    data = {
        "prompts": sorted({task.request.prompt for task in tasks[_RANDOM]}),
        "levels": levels,
        "contrasts": [one.to_json() for one in found.values()],
        "bias": {label: {"length": one.to_json(), "p_holm": p} for label, (one, p) in bias.items()},
        "encoders": [one.to_json() for one in encoders.values()],
        "n_pictures": sum(map(len, tasks.values())),
    }
    words = _words(setting, found, bias, encoders, measures, list(mixes))
    return Answer(words, _sections(found, bias, encoders), _charts(levels, measures), data)


def _measured(
    setting: Setting, recipe: Recipe, tasks: Mapping[str, Sequence[Task]]
) -> dict[tuple[str, str], Doubles]:
    """By kind of prompt and measure, a number a picture; see the study's text for each."""
    found = {}
    for kind, own in tasks.items():
        prompts = [task.payload for task in own] if kind == _RANDOM else [""] * len(own)
        pictures = list(setting.gallery.pictures(recipe, own))
        pixels = np.stack([_small(picture) for picture in pictures])
        found[kind, _SPREAD] = _spread(pixels, prompts)
        found[kind, _NOISE] = np.array([noise_of(picture) for picture in pictures])
        if setting.embed is not None:
            vectors = np.asarray(setting.embed(pictures), np.float64)
            found[kind, _FEATURES] = _spread(vectors, prompts)
        if setting.classifier is not None and setting.classifier.sure:
            shown = setting.classifier.look(pictures)
            chances = {name: np.exp(rows) for name, rows in shown.items()}
            found[kind, _CONCEPTS] = _spread(np.concatenate(list(chances.values()), axis=1),
                                             prompts)  # fmt: skip
            found[kind, _SURE] = np.mean([one.max(axis=1) for one in chances.values()], axis=0)
    return found


def _small(picture: Picture) -> Doubles:
    return shrink(picture, _SIDE).astype(np.float64).ravel() / 255


def _spread(rows: Doubles, prompts: Sequence[str]) -> Doubles:
    """Each picture's squared distance from its prompt's mean, so that means are variances.

    Summed over dimensions: only ratios are read.
    """
    found = np.empty(len(rows))
    for prompt in dict.fromkeys(prompts):
        own = np.array([one == prompt for one in prompts])
        n = int(own.sum())
        away = rows[own] - rows[own].mean(axis=0)
        found[own] = np.square(away).sum(axis=1) * (n / (n - 1) if n > 1 else 1.0)
    return found


def _biases(setting: Setting, tasks: Sequence[Task]) -> dict[str, tuple[Interval, float]]:
    """How far a candidate's mean picture is from that of the parents, themselves left out."""

    def pixels(recipe: Recipe) -> Doubles:
        return np.stack([_small(one) for one in setting.gallery.pictures(recipe, tasks)])

    parents = {name: pixels(setting.alone(name)) for name in setting.models}
    total = np.sum(list(parents.values()), axis=0)
    n = len(parents)
    away = {name: own - (total - own) / (n - 1) for name, own in parents.items()}
    away |= {label: pixels(one) - total / n for label, one in setting.mixes().items()}
    p = {label: sign_flips(rows, n_flips=10 * setting.n_permutations, seed=setting.seed)
         for label, rows in away.items()}  # fmt: skip
    corrected = holm(p)
    return {label: (_length(rows, setting.seed), corrected[label]) for label, rows in away.items()}


def _length(rows: Doubles, seed: int) -> Interval:
    """Root of the mean square over pixels of a mean difference, chance taken off.

    The square of an estimated vector is too large by its variance, that of a resampled one by
    twice as much.
    """
    n, width = rows.shape
    chance = float(rows.var(axis=0, ddof=1).sum()) / n
    found = bootstrap_means(rows, lambda mean: float(mean @ mean), n_boot=1000, seed=seed)

    def root(square: float, off: float) -> float:
        return float(np.sqrt(max(0.0, square - off) / width))

    return Interval(root(found.value, chance), root(found.low, 2 * chance),
                    root(found.high, 2 * chance))  # fmt: skip


def _encoders(
    setting: Setting, tasks: Mapping[str, Sequence[Task]], groups: Mapping[str, Sequence[str]]
) -> dict[str, Contrast]:
    """A child's text encoder against the base's, in the child's UNet and in the base's one."""
    base = setting.base
    if base is None or base not in setting.whole:
        return {}
    pairs, of = {}, {}
    for name in own_encoders(setting, _MOST_ENCODERS):
        sides: dict[str, list[dict[tuple[str, str], Doubles]]] = {
            encoder: [_measured(setting, setting.mix((unet,), (encoder,)), tasks)
                      for unet in (name, base)]
            for encoder in (name, base)
        }  # fmt: skip
        for kind in tasks:
            for measure in (_SPREAD, _FEATURES):
                if (kind, measure) not in sides[base][0]:
                    continue
                what = f"{measure} with the text encoder of {name}, {kind}"
                a, b = (np.mean([one[kind, measure] for one in sides[encoder]], axis=0)
                        for encoder in (name, base))  # fmt: skip
                pairs[what], of[what] = (a, b), groups[kind]
    if not pairs:
        return {}
    return contrast_all(pairs, of, n_permutations=setting.n_permutations, seed=setting.seed)


def _words(
    setting: Setting, found: Mapping[str, Contrast], bias: Mapping[str, tuple[Interval, float]],
    encoders: Mapping[str, Contrast], measures: Sequence[str], mixes: Sequence[str],
) -> list[str]:  # fmt: skip
    said = []
    main = _FEATURES if _FEATURES in measures else _SPREAD
    rest = [
        (m, kind) for kind in (_EMPTY, _RANDOM) for m in measures if (m, kind) != (main, _EMPTY)
    ]
    for label in reversed(mixes):
        one = found[f"{main} of {label} against {_PARENTS}, {_EMPTY}"]
        start = "Cannot tell: " if one.state == "cannot tell" else ""
        name = label if start else label[0].upper() + label[1:]
        said.append(
            f"{start}{name} is {_COMPARED[one.state]} its parents: without a prompt its pictures' "
            f"variance ({main}) is {percent_text(one)} of theirs. Besides, "
            + _sorted_out({f"{m}, {kind}": found[f"{m} of {label} against {_PARENTS}, {kind}"]
                           for m, kind in rest}) + "."
        )  # fmt: skip
    if _TUNED in mixes:
        said.append("The tuned mix against the uniform one: " + _sorted_out(
            {f"{m}, {kind}": found[f"{m} of {_TUNED} against {_MIX}, {kind}"]
             for m, kind in [(main, _EMPTY), *rest]}) + ".")  # fmt: skip
    else:
        said.append("No tuned mix was given (--tuned), so nothing is said of one.")
    said.append(_bias_words(setting, bias, mixes))
    said.append(_encoder_words(setting, encoders))
    if main == _SPREAD:
        said.append("Variance is that of pixels, which sees places and colours rather than "
                    "things; --features gives a network to see with.")  # fmt: skip
    return said


def _sorted_out(rows: Mapping[str, Contrast]) -> str:
    """What is sure, with numbers; the rest by name."""
    parts = [f"{name} {percent(one.found)}, {one.state}" for name, one in rows.items()
             if one.state in ("more", "less")]  # fmt: skip
    parts = parts or ["nothing is surely more or less"]
    for state, told in (("alike", "alike within a tenth"), ("cannot tell", "cannot tell")):
        names = [name for name, one in rows.items() if one.state == state]
        if names:
            parts.append(f"{told}: {' / '.join(names)}")
    return "; ".join(parts)


def _bias_words(
    setting: Setting, bias: Mapping[str, tuple[Interval, float]], mixes: Sequence[str]
) -> str:
    parents = np.array([bias[name][0].value for name in setting.models])
    parts = []
    for label in mixes:
        one, p = bias[label]
        sure = "surely" if p < LEVEL else "not surely"
        parts.append(f"{label} is {sure} biased, by {one} (p {p:.2g})")
    return (
        "Bias, the distance of the mean picture without a prompt from the parents' mean picture in "
        f"units of brightness: {'; '.join(parts)}; a parent from the others "
        f"{parents.min():.3f} to {parents.max():.3f}."
    )


def _encoder_words(setting: Setting, encoders: Mapping[str, Contrast]) -> str:
    if setting.base is None:
        return ("Whether a trained text encoder cuts variance needs a base to compare with "
                "(--base).")  # fmt: skip
    if not encoders:
        return "No model has a text encoder of its own, so none can cut variance."
    own = [one for one in encoders.values() if _FEATURES in one.name] or list(encoders.values())
    less = [one for one in own if one.state == "less"]
    more = [one for one in own if one.state == "more"]
    start = "Cannot tell whether a trained text encoder cuts variance"
    if less and not more:
        start = f"A trained text encoder cuts variance in {len(less)} of {len(own)} comparisons"
    elif more and not less:
        start = ("A trained text encoder does not cut variance: there is more in "
                 f"{len(more)} of {len(own)} comparisons")  # fmt: skip
    elif less and more:
        start = (f"A trained text encoder cuts variance in {len(less)} of {len(own)} comparisons, "
                 f"and adds to it in {len(more)}")  # fmt: skip
    elif all(one.state == "alike" for one in own):
        start = "A trained text encoder changes variance by less than a tenth"
    return f"{start} (the base's encoder in the same UNets is 100 %): " + "; ".join(
        _short(one) for one in own) + "."  # fmt: skip


def _short(one: Contrast) -> str:
    return f"{one.name.replace(' against the parents', '')} {percent(one.found)}, {one.state}"


def _sections(
    found: Mapping[str, Contrast], bias: Mapping[str, tuple[Interval, float]],
    encoders: Mapping[str, Contrast],
) -> list[Section]:  # fmt: skip
    sections: list[Section] = [
        contrast_table(
            "Variance and noise", found,
            "Spread: the variance of pictures of one prompt over seeds. Noise: Immerkær's "
            "estimate. Surest word: how sure the classifier is of what it sees, a sign that "
            "things can be identified.",
        ),
        Table(
            "Bias without a prompt",
            ["model", "distance from the parents' mean picture", "interval", "p, corrected"],
            [TableRow([label, f"{one.value:.4f}", f"{one.low:.4f} … {one.high:.4f}", f"{p:.4f}"],
                      "strong" if p < LEVEL else "plain")
             for label, (one, p) in bias.items()],
            "Root of the mean square over pixels, 0 to 1; a parent against the other parents.",
            numeric=frozenset({1, 3}),
        ),
    ]  # fmt: skip
    if encoders:
        text = ("Mean over two UNets, the child's and the base's, against the base's encoder in "
                "both.")  # fmt: skip
        sections.append(contrast_table("Trained text encoders", encoders, text))
    return sections


def _charts(levels: Mapping[str, Mapping[str, float]], measures: Sequence[str]) -> dict[str, Chart]:
    charts: dict[str, Chart] = {}
    for kind in (_EMPTY, _RANDOM):
        lines = []
        for measure in measures:
            name = f"{measure}, {kind}"
            mean = float(np.mean([one[name] for one in levels.values()])) or 1.0
            lines.append((measure, [float(one[name]) / mean for one in levels.values()]))
        charts[kind.replace(" ", "-")] = Curve(
            f"Variance and noise: {kind}", list(levels), lines, axis="model",
            unit="of the mean of all",
        )  # fmt: skip
    return charts


def _cost(setting: Setting) -> int:
    each = _N_EMPTY + _N_PROMPTS * _N_SEEDS
    n_encoders = 0
    if setting.base is not None and setting.base in setting.whole:
        n_encoders = len(own_encoders(setting, _MOST_ENCODERS))
    candidates = len(setting.models) + len(setting.mixes()) + 4 * n_encoders
    return candidates * each


VARIANCE = Study(
    "variance",
    "f",
    "How diverse and how noisy are parents and mixes; does a trained text encoder cut variance?",
    "two models or more; --base for text encoders, --tuned, --features and --concepts for more",
    _missing,
    _cost,
    _run,
)
