"""Studies of mixes against their parents, where the answer is planted, and where there is none."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.draw import DrawSettings, Request
from stockpot.errors import RequestError
from stockpot.recipes import Recipe, linear, make_recipe, model
from stockpot.studies import STUDIES, Answer, Classifier, Setting, plain_data, span, variance
from stockpot.studies.detail import shares_of
from stockpot.studies.span import usable
from stockpot.studies.variance import noise_of
from stockpot.tune import Exam, Task
from stockpot.zoo import extras

SIDE = 32
PROMPTS = [f"thing {i}" for i in range(10)]
COLOURS, SHAPES = ("red", "green", "blue"), ("cube", "ball", "cone")

Painted = Callable[..., Setting]
Values = np.ndarray[Any, Any]


def exam(*prompts: str, n: int = 2) -> Exam:
    """So many pictures of each prompt, a payload each."""
    settings = DrawSettings(steps=8, cfg=4.0, width=SIDE, height=SIDE)
    return Exam(tuple(
        Task(f"p{i}#{j}", f"p{i}", Request(prompt, 1000 + 10 * i + j, settings))
        for j in range(n)
        for i, prompt in enumerate(prompts)
    ))  # fmt: skip


def chance(*words: object) -> np.random.Generator:
    """Random numbers that depend on the words and on nothing else."""
    return np.random.default_rng(zlib.crc32(repr(words).encode()))


def flat(value: float) -> Values:
    """A picture of one grey."""
    return np.full((SIDE, SIDE, 3), float(value))


def speckles(rng: np.random.Generator, sd: float) -> Values:
    """Grey noise."""
    return np.repeat(rng.normal(0, sd, (SIDE, SIDE, 1)), 3, axis=2)


def answer(name: str, setting: Setting) -> tuple[list[str], dict[str, Any]]:
    """Run a study; its words, and its numbers as JSON gives them back."""
    study = STUDIES[name]
    assert study.missing(setting) == ""
    found: Answer = study.run(setting)
    assert setting.gallery.n_drawn <= study.cost(setting)
    assert found.words and all(line.endswith(".") for line in found.words)
    return list(found.words), json.loads(json.dumps(plain_data(found.data), allow_nan=False))


def tuned(setting: Setting) -> Recipe:
    """Three quarters of the first model, a quarter of the last."""
    names = (setting.models[0], setting.models[-1])
    unet = linear([model(name) for name in names], [0.75, 0.25])
    files = {name: setting.pool.files[name] for name in setting.models}
    return make_recipe({"unet": unet, "te": model(names[0]), "vae": model(names[1])}, files)


# ---------------------------------------------------------------- the setting


def test_a_tuned_mix_has_the_vae_of_all_candidates(setting: Setting) -> None:
    own = replace(setting, tuned=tuned(setting))
    mix = own.mixes()["the tuned mix"]
    assert str(mix.mix["vae"]) == str(model(setting.pool.vae)) and setting.pool.vae in mix.pool
    first, last = setting.models[0], setting.models[-1]
    assert shares_of(own, mix) == {first: 0.75, last: 0.25}
    assert shares_of(own, mix, "te") == {first: 1.0}
    assert list(setting.mixes()) == ["the mix"]


def test_what_a_tuned_mix_and_adapters_name_must_be_there(setting: Setting) -> None:
    stranger = make_recipe("a", {"a": "a.safetensors"})
    with pytest.raises(RequestError, match="tuned mix"):
        replace(setting, tuned=stranger)
    with pytest.raises(RequestError, match="home"):
        replace(setting, homes={"ink": "base"})


# ---------------------------------------------------------------- e: detail


def washed(mix: float, tuned: float) -> Callable[..., tuple[Values, float]]:
    """Parents draw noise of SD 24; mixes, that of their own."""

    def paint(canvas: Any) -> tuple[Values, float]:
        sd = 24.0
        if canvas.is_mix:
            sd = tuned if len(canvas.unet) == 2 else mix
        rng = chance(sorted(canvas.unet), canvas.task.request.seed)
        return flat(128) + speckles(rng, sd), 0.0

    return paint


def test_a_washed_out_mix_is_found(setting: Setting, painted: Painted) -> None:
    own = painted(washed(24, 12), exam=exam(*PROMPTS), tuned=tuned(setting))
    words, data = answer("detail", own)
    assert words[0].startswith("Yes: the tuned mix has less background detail and background")
    by = {one["what"]: one for one in data["contrasts"]}
    # Half of the amplitude is a quarter of the energy.
    whole = by["detail of the tuned mix against the parents"]["found"]
    assert whole["low"] < 0.25 < whole["high"]
    assert by["detail of the mix against the parents"]["state"] == "alike"
    assert by["background detail of the tuned mix against the mix"]["state"] == "less"
    assert data["shares_of_the_tuned_mix"] == {setting.models[0]: 0.75, setting.models[-1]: 0.25}


def test_a_mix_like_its_parents_loses_nothing(painted: Painted) -> None:
    words, data = answer("detail", painted(washed(24, 24), exam=exam(*PROMPTS)))
    assert words[0].startswith("No: the mix keeps")
    assert any("--tuned" in line for line in words)
    assert all(one["state"] == "alike" for one in data["contrasts"] if "contrast" in one["what"])


def test_detail_that_differs_by_chance_is_no_answer(painted: Painted) -> None:
    def paint(canvas: Any) -> tuple[Values, float]:
        rng = chance(sorted(canvas.unet), canvas.task.request.seed)
        return flat(128) + speckles(rng, float(np.exp(rng.normal(2, 1)))), 0.0

    words, _ = answer("detail", painted(paint, exam=exam(*PROMPTS)))
    assert words[0].startswith("Cannot tell")


# ---------------------------------------------------------------- f: variance


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pictures than the study draws of a real pool."""
    for name, value in (("_N_EMPTY", 24), ("_N_PROMPTS", 8), ("_N_SEEDS", 3)):
        monkeypatch.setattr(variance, name, value)


def varied(mix: float, encoder: float, bias: float) -> Callable[..., tuple[Values, float]]:
    """Greys around 128 by seed, in a narrower range for mixes and for one text encoder."""

    def paint(canvas: Any) -> tuple[Values, float]:
        spread = mix if canvas.is_mix else 1.0
        if set(canvas.te) == {"te-trained"}:
            spread *= encoder
        rng = np.random.default_rng(canvas.task.request.seed)
        middle = 128 + (bias if canvas.is_mix else 0)
        return flat(middle + spread * rng.uniform(-60, 60)) + speckles(rng, 3), 0.0

    return paint


def test_less_variance_and_bias_are_found(painted: Painted, fewer: None) -> None:
    own = painted(varied(0.5, 0.6, 12), exam=exam(*PROMPTS))
    words, data = answer("variance", own)
    assert words[0].startswith("The mix is less diverse than its parents")
    by = {one["what"]: one for one in data["contrasts"]}
    for kind in ("no prompt", "random words"):
        parents = (3 + 0.6**2) / 4  # one of four has the narrow encoder
        ratio = by[f"spread of pixels of the mix against the parents, {kind}"]["found"]["value"]
        assert ratio == pytest.approx(0.25 / parents, rel=0.05)
        assert by[f"noise of the mix against the parents, {kind}"]["state"] == "alike"
    assert data["bias"]["the mix"]["length"]["value"] == pytest.approx(12 / 255, rel=0.2)
    assert data["bias"]["the mix"]["p_holm"] < 0.05
    assert len(data["encoders"]) == 2
    for one in data["encoders"]:
        assert one["state"] == "less"
        assert one["found"]["value"] == pytest.approx(0.36, rel=0.05)
    assert any("cuts variance in 2 of 2" in line for line in words)


def test_models_that_draw_alike_have_no_bias_and_one_variance(
    painted: Painted, fewer: None
) -> None:
    def paint(canvas: Any) -> tuple[Values, float]:
        rng = chance(sorted(canvas.unet), sorted(canvas.te), canvas.task.key)
        return flat(128 + rng.uniform(-60, 60)) + speckles(rng, 3), 0.0

    words, data = answer("variance", painted(paint, exam=exam(*PROMPTS), base=None))
    assert words[0].startswith(("Cannot tell", "The mix is as diverse"))
    assert all(one["p_holm"] > 0.05 for one in data["bias"].values())
    assert any("--base" in line for line in words)


def test_random_words_are_words_of_the_exam(painted: Painted, fewer: None) -> None:
    _, data = answer("variance", painted(varied(1, 1, 0), exam=exam("red cube", "blue ball")))
    said = {word for prompt in data["prompts"] for word in prompt.split()}
    assert said <= {"red", "cube", "blue", "ball"} and len(said) > 2


def test_noise_is_measured_and_edges_are_not() -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(128 + rng.normal(0, 10, (96, 96, 1)), 0, 255).repeat(3, 2).astype(np.uint8)
    assert noise_of(noisy) == pytest.approx(10 / 255, rel=0.05)
    edges = np.zeros((96, 96, 3), np.uint8)
    edges[:, 48:] = 255
    assert noise_of(edges) < 0.003


# ---------------------------------------------------------------- g: concepts


def toy_classifier(errors: float | None = None) -> Classifier:
    """Reads two words that are written into a picture's corner; errs, where it is told to."""

    def asked(prompt: str) -> Mapping[str, str]:
        pairs = (("colour", COLOURS), ("shape", SHAPES))
        return {name: word for name, words in pairs for word in words if word in prompt.split()}

    def look(pictures: Sequence[Any]) -> Mapping[str, Values]:
        found = {}
        for place, name in enumerate(("colour", "shape")):
            rows = np.full((len(pictures), 3), np.log(0.05))
            for i, picture in enumerate(pictures):
                word = int(picture[0, place, 0])
                if errors and place and chance(picture.tobytes()).random() < errors:
                    word = (word + 1) % 3
                rows[i, word] = np.log(0.9)
            found[name] = rows
        return found

    def known(n: int, seed: int) -> tuple[list[Any], list[Mapping[str, str]]]:
        rng = np.random.default_rng(seed)
        pictures, shown = [], []
        for _ in range(n):
            colour, shape = (int(i) for i in rng.integers(3, size=2))
            picture = rng.integers(255, size=(SIDE, SIDE, 3)).astype(np.uint8)
            picture[0, :2, 0] = colour, shape
            pictures.append(picture)
            shown.append({"colour": COLOURS[colour], "shape": SHAPES[shape]})
        return pictures, shown

    concepts = {"colour": COLOURS, "shape": SHAPES}
    return Classifier("toy", concepts, asked, look, True, None if errors is None else known)


def worded(right: float, of_mix: float, salt: int = 0) -> Callable[..., tuple[Values, float]]:
    """The colour asked for, and the shape as often; one parent draws red for blue."""

    def paint(canvas: Any) -> tuple[Values, float]:
        colour, shape = canvas.task.request.prompt.split()
        words = [COLOURS.index(colour), SHAPES.index(shape)]
        rng = chance(sorted(canvas.unet), canvas.task.request, salt)
        if rng.random() > (of_mix if canvas.is_mix else right):
            words[1] = int((words[1] + 1 + rng.integers(2)) % 3)
        if canvas.name == "content-warm" and words[0] == 2:
            words[0] = 0
        values = np.round(rng.uniform(0, 255, (SIDE, SIDE, 3)))
        values[0, :2, 0] = words
        return values, 0.0

    return paint


WORDED = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


def test_a_mix_that_hears_better_is_found(painted: Painted) -> None:
    own = painted(worded(0.4, 0.95), exam=exam(*WORDED, n=8), classifier=toy_classifier())
    words, data = answer("concepts", own)
    assert words[0].startswith("Yes: the mix draws all that is asked for together more often")
    assert data["all_together"]["the mix"] == pytest.approx(0.95, abs=0.06)
    by = {one["what"]: one for one in data["contrasts"]}
    assert by["shape: the mix against the parents"]["state"] == "more"
    # One of four draws red for blue: a third of the pictures.
    assert by["colour: the mix against the parents"]["b"] == pytest.approx(1 - 1 / 12)
    typical = by["confusions typical of a parent: the mix against that parent"]
    assert typical["b"] > 0.3 and typical["a"] < 0.1
    red_for_blue = np.array(data["confusion"]["the parents"]["colour"])[2, 0]
    assert red_for_blue == pytest.approx(0.25)
    assert any("is not known" in line for line in words)


def test_a_mix_that_hears_as_its_parents_do_is_not_called_better(painted: Painted) -> None:
    own = painted(worded(0.7, 0.7, 1), exam=exam(*WORDED, n=4), classifier=toy_classifier())
    words, _ = answer("concepts", own)
    assert words[0].startswith(("Cannot tell", "No: the mix draws all that is asked for together "
                                "as often"))  # fmt: skip


def test_a_classifiers_own_errors_are_taken_off(painted: Painted) -> None:
    own = painted(worded(1.0, 1.0), exam=exam(*WORDED, n=8), classifier=toy_classifier(0.2))
    words, data = answer("concepts", own)
    assert data["classifier_on_known_pictures"]["sees_all"] == pytest.approx(0.8, abs=0.05)
    said, errors = data["all_together"]["the mix"], data["classifier_on_known_pictures"]
    assert said == pytest.approx(0.8, abs=0.12)
    true = (said - errors["is_fooled"]) / (errors["sees_all"] - errors["is_fooled"])
    assert any(f"taken off, rates are {100 * min(true, 1):.0f} % of the mix" in line
               for line in words)  # fmt: skip


# ---------------------------------------------------------------- h: range


def ranged(parents: float, mix: float) -> Callable[..., tuple[Values, float]]:
    """Good up to some CFG, from four steps on, and up to some size."""

    def paint(canvas: Any) -> tuple[Values, float]:
        asked = canvas.task.request.settings
        score = 1.0 if 2 <= asked.cfg <= (mix if canvas.is_mix else parents) else 0.0
        score *= min(1.0, asked.steps / 4) * (1.0 if asked.width <= 40 else 0.2)
        return flat(100), score + chance(sorted(canvas.unet), canvas.task.key).normal(0, 0.03)

    return paint


@pytest.fixture
def quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamplings than the study makes."""
    monkeypatch.setattr(span, "_N_BOOT", 800)


def test_a_wider_range_is_found_where_it_is(painted: Painted, quicker: None) -> None:
    words, data = answer("range", painted(ranged(8, 15), exam=exam(*PROMPTS[:6], n=1)))
    assert words[0].startswith("Yes: the mix is usable in a wider range than its parents (the "
                               "upper end of CFG at ")  # fmt: skip
    ranges = data["axes"]["CFG"]["ranges"]
    # The last good values of the ladder are 7 and 12; a bar of 3/4 is a quarter of the way on.
    assert ranges["style-glossy"]["0.75"][1] == pytest.approx(7 * (12 / 7) ** 0.25, rel=0.05)
    assert ranges["the mix"]["0.75"][1] == pytest.approx(12 * (20 / 12) ** 0.25, rel=0.05)
    assert data["axes"]["size"]["ranges"]["the mix"]["0.75"][0] == 0.5


def test_equal_ranges_are_no_answer(painted: Painted, quicker: None) -> None:
    words, data = answer("range", painted(ranged(8, 8), exam=exam(*PROMPTS[:6], n=1)))
    assert words[0].startswith(("Cannot tell whether the mix is usable in a wider range",
                                "No: the mix has the range of its parents"))  # fmt: skip
    assert len(data["ends"]) == 5


def test_usable_ranges_by_hand() -> None:
    values, bar = (1, 2, 4, 8), 0.5
    assert usable(values, (1, 1, 1, 1), bar, 4) == (1, 8)
    assert usable(values, (0, 1, 0, 1), bar, 2) == pytest.approx((2**0.5, 8**0.5))
    assert all(np.isnan(usable(values, (1, 0, 0, 1), bar, 2)))


# ---------------------------------------------------------------- i: adapters


def adapted(on_mix: float) -> Callable[..., tuple[Values, float]]:
    """A LoRA draws rows, an embedding columns; on mixes, weaker."""

    def paint(canvas: Any) -> tuple[Values, float]:
        prompt, strength = canvas.task.request.prompt, on_mix if canvas.is_mix else 1.0
        rng = chance(sorted(canvas.unet), canvas.task.request.seed, len(prompt))
        values = flat(128) + speckles(rng, 8)
        if "lora:lora-striped" in prompt:
            values[::2] += 60 * strength
        if "purple-moon" in prompt and not canvas.is_mix:
            values[:, ::2] += 40
        return values, 0.0

    return paint


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    return {extra.name: extra.path for extra in extras()}


def test_what_survives_is_measured(painted: Painted, files: dict[str, Path]) -> None:
    own = painted(
        adapted(0.8), exam=exam(*PROMPTS, n=1),
        loras={name: files[name] for name in ("lora-striped", "lora-navy")},
        embeddings={"purple-moon": files["purple-moon"]}, homes={"lora-navy": "style-glossy"},
    )  # fmt: skip
    words, data = answer("adapters", own)
    by = {(one["adapter"], one["on"]): one for one in data["effects"]}
    stripes = by["lora-striped", "the mix"]
    assert stripes["share"]["value"] == pytest.approx(0.8, abs=0.05)
    assert stripes["state"] == "survives"
    assert by["purple-moon", "the mix"]["state"] == "is lost"
    assert by["purple-moon", "the other parents"]["state"] == "survives"
    homes = {one["name"]: (one["home"], one["home_is_known"]) for one in data["adapters"]}
    # The file of one LoRA says where it was trained.
    assert homes == {"lora-striped": ("base", True), "lora-navy": ("style-glossy", True),
                     "purple-moon": ("base", False)}  # fmt: skip
    assert words[0].startswith("Of 2 LoRAs and embeddings that do something at home, on the mix")
    assert any(line.startswith("lora-navy") and "nothing sure" in line for line in words)


def test_what_does_nothing_cannot_survive(painted: Painted, files: dict[str, Path]) -> None:
    own = painted(adapted(1), exam=exam(*PROMPTS, n=1), loras={"lora-navy": files["lora-navy"]})
    words, _ = answer("adapters", own)
    assert words[0].startswith("Cannot tell")


# ---------------------------------------------------------------- j: parents


def kin(how: str, models: Sequence[str]) -> Callable[..., tuple[Values, float]]:
    """Pictures of a mix: those of the payload's own parent; of a prompt, whoever is in it; any."""

    def paint(canvas: Any) -> tuple[Values, float]:
        payload, seed = int(canvas.task.payload[1:]), canvas.task.request.seed
        if how == "chance":
            rng = chance(sorted(canvas.unet), canvas.task.key)
            return flat(128) + speckles(rng, 30), 0.0
        own = {name: flat(128) + speckles(chance(name, seed), 30) for name in models}
        if not canvas.is_mix:
            return own[canvas.name], 0.0
        owner = models[payload % len(models)]
        rest = np.mean([own[name] for name in canvas.unet], axis=0)
        if how == "owner" and owner not in canvas.unet:
            return rest, 0.0
        return 0.8 * own[owner] + 0.2 * rest, 0.0

    return paint


def test_a_resemblance_that_is_a_contribution_is_told(setting: Setting, painted: Painted) -> None:
    own = painted(kin("owner", setting.models), exam=exam(*PROMPTS[:8]), tuned=tuned(setting))
    words, data = answer("parents", own)
    assert words[0].startswith("Yes, mostly")
    assert data["nearest_without_it_too"]["pixels"]["value"] < 0.2
    (link,) = [one for one in data["links"] if one["contribution"] == "what changes without it"]
    assert link["agree"] == 1 and link["within_pictures"]["value"] > 0.3
    assert {one["a"] for one in data["nearest"].values()} == {0.25}
    assert data["tuned"]["shares_of_weights"] == {setting.models[0]: 0.75, setting.models[-1]: 0.25}


def test_a_resemblance_that_stays_without_the_parent_is_none(
    setting: Setting, painted: Painted
) -> None:
    words, data = answer("parents", painted(kin("always", setting.models), exam=exam(*PROMPTS[:8])))
    assert words[0].startswith("No: a picture mostly resembles whom it would resemble anyway")
    assert data["nearest_without_it_too"]["pixels"]["value"] == 1


def test_pictures_of_chance_come_from_nobody(setting: Setting, painted: Painted) -> None:
    words, _ = answer("parents", painted(kin("chance", setting.models), exam=exam(*PROMPTS[:8])))
    assert words[0].startswith("Cannot tell")


# ---------------------------------------------------------------- what is missing


@pytest.mark.parametrize(
    ("name", "changes", "lacks"),
    [
        (
            "detail",
            {"outliers": ("outlier", "style-outline", "style-glossy", "content-warm")},
            "two models",
        ),
        ("concepts", {}, "--concepts"),
        ("concepts", {"classifier": toy_classifier()}, "two attributes"),
        ("range", {"score": ""}, "--score"),
        ("adapters", {}, "--lora"),
        ("adapters", {"base": None, "embeddings": {"moon": Path("moon.pt")}}, "--trained-on"),
        ("parents", {"outliers": ("outlier", "style-outline", "style-glossy")}, "at least 3"),
    ],
)
def test_what_is_missing_is_said(
    setting: Setting, name: str, changes: dict[str, Any], lacks: str
) -> None:
    assert lacks in STUDIES[name].missing(replace(setting, **changes))
