"""Block-weight profiles, against the table of the tools' rules and the author's own files."""

import csv
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpot.errors import LayoutError, UnknownNameError
from stockpot.layouts import (
    LAYOUTS,
    PROFILES,
    Cell,
    get_layout,
    get_profile,
    profiles_for,
    spread,
    supermerger_26_to_20,
)

ROOT = Path(__file__).parents[2]
AUTOMBW = Path(os.environ.get("STOCKPOT_DATA", ROOT.parent / "shared" / "data")) / "autombw"

IN, OUT = [f"IN{i:02d}" for i in range(12)], [f"OUT{i:02d}" for i in range(12)]

# Profile → labels, and the label that each place without a number of its own goes by.
RULES = {
    "autombw": (
        [*IN, "M00", "OUT", *OUT, "TIME"],
        {"time_embed": "TIME", "out": "OUT", "te": None, "vae": None},
    ),
    "autombw-recipe": (
        [*IN, "M00", *OUT, "OUT", "TIME"],
        {"time_embed": "TIME", "out": "OUT", "te": None, "vae": None},
    ),
    "supermerger": (
        ["BASE", *IN, "M00", *OUT],
        {"time_embed": "IN00", "out": "OUT11", "te": "BASE", "vae": "BASE"},
    ),
    "supermerger-xl": (
        ["BASE", *IN[:9], "M00", *OUT[:9]],
        {"time_embed": "IN00", "out": "OUT08", "label_emb": "IN00", "te": "BASE", "vae": "BASE"},
    ),
    "meh": (
        ["BASE", *IN, "M00", *OUT],
        {"time_embed": "IN00", "out": "OUT11", "te": "BASE", "vae": "BASE"},
    ),
    "sd-mecha": (
        ["BASE", *IN, "M00", *OUT],
        {"time_embed": "BASE", "out": "OUT11", "te": "BASE", "vae": "BASE"},
    ),
    "sd-mecha-xl": (
        ["BASE", *IN[:9], "M00", *OUT[:9], "VAE"],
        {"time_embed": "BASE", "out": "OUT08", "label_emb": "BASE", "te": "BASE", "vae": "VAE"},
    ),
}
LENGTHS = {
    "autombw": 27,
    "autombw-recipe": 27,
    "supermerger": 26,
    "supermerger-xl": 20,
    "meh": 26,
    "sd-mecha": 26,
    "sd-mecha-xl": 21,
}


def test_there_are_rules_for_every_profile() -> None:
    assert {name: profile.length for name, profile in PROFILES.items()} == LENGTHS
    assert set(RULES) == set(PROFILES)


@pytest.mark.parametrize("name", list(RULES))
def test_every_cell_follows_its_tools_rule(name: str) -> None:
    profile = get_profile(name)
    labels, rules = RULES[name]
    assert list(profile.labels) == labels
    layouts = [layout for layout in LAYOUTS.values() if profile in profiles_for(layout)]
    assert [layout.name for layout in layouts] == (
        ["sdxl"] if name.endswith("-xl") else ["sd1", "sd2", "zoo"]
    )
    for layout in layouts:
        for cell in layout.cells:
            place = cell.block if cell.component == "unet" else cell.component
            place = "te" if place.startswith("te") and place != "time_embed" else place
            if place in ("ema", "other", "unknown"):
                label = None
            else:
                label = rules.get(place, place)
            index = profile.index_of(cell)
            assert (None if index is None else labels[index]) == label, (name, str(cell))


@pytest.mark.parametrize("name", list(RULES))
def test_every_number_reaches_a_cell_and_each_cell_has_one_number(name: str) -> None:
    profile = get_profile(name)
    for layout_name in profile.layouts:
        layout = get_layout(layout_name)
        cells = spread(profile, profile.labels, layout)
        assert tuple(cells) == layout.cells
        assert set(cells.values()) - {Fraction(0)} == set(profile.labels)


@given(
    name=st.sampled_from(list(PROFILES)),
    numbers=st.lists(st.fractions(), min_size=27, max_size=27),
)
def test_spread_gives_each_cell_the_number_of_its_index(name: str, numbers: list[Fraction]) -> None:
    profile = get_profile(name)
    values = numbers[: profile.length]
    for cell, value in spread(profile, values, get_layout(profile.layouts[0])).items():
        index = profile.index_of(cell)
        assert value == (0 if index is None else values[index])


@pytest.mark.parametrize("row", sorted(AUTOMBW.glob("*.csv")) or [None])
def test_the_authors_pairs_of_csv_and_recipe_line(row: Path | None) -> None:
    """The best row of a search and the line that the merge was done with say one thing."""
    if row is None:
        pytest.skip(f"no runs of AutoMBW in {AUTOMBW}")
    stem = row.name.split("-0-")[0]
    text = (AUTOMBW / f"{stem}.recipe.txt").read_text(encoding="utf-8", errors="replace")
    lines = (line.strip().split(",") for line in text.splitlines())
    recipe = next([Fraction(n) for n in line] for line in lines if len(line) == 27)
    with row.open(encoding="utf-8") as file:
        # Lines end in two carriage returns, which read as a blank line after each.
        rows = [list(map(Fraction, line[:27])) for line in csv.reader(file) if len(line) > 27][1:]
    reordered = [[*p[0:13], *p[14:26], p[13], p[26]] for p in rows]
    assert recipe in reordered
    p = rows[reordered.index(recipe)]
    layout = get_layout("sd1")
    by_row = spread(get_profile("autombw"), p, layout)
    by_line = spread(get_profile("autombw-recipe"), recipe, layout)
    assert by_row == by_line
    assert by_row[Cell("unet", "out")] == p[13] and by_row[Cell("unet", "time_embed")] == p[26]


def test_supermerger_26_to_20() -> None:
    labels = supermerger_26_to_20(get_profile("supermerger").labels)
    assert labels == list(get_profile("supermerger-xl").labels)
    with pytest.raises(LayoutError, match="26 numbers, but got 25"):
        supermerger_26_to_20([0] * 25)


def test_a_wrong_length_names_the_profiles_that_have_it() -> None:
    with pytest.raises(LayoutError) as caught:
        spread(get_profile("autombw"), [0] * 26, get_layout("sd1"))
    assert str(caught.value) == (
        "profile 'autombw' takes 27 numbers (IN00 … TIME), but got 26; "
        "profiles of that length: supermerger, meh, sd-mecha"
    )
    with pytest.raises(LayoutError, match="no profile has that many; `meh` takes the base_alpha"):
        spread(get_profile("meh"), [0] * 25, get_layout("sd1"))


def test_a_profile_of_another_architecture_is_refused() -> None:
    with pytest.raises(LayoutError, match="it takes: supermerger-xl, sd-mecha-xl .*26_to_20"):
        spread(get_profile("supermerger"), [0] * 26, get_layout("sdxl"))
    with pytest.raises(LayoutError, match="'generic'; no profile fits it"):
        spread(get_profile("autombw"), [0] * 27, get_layout("generic"))


def test_an_unknown_profile_suggests_a_near_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'supermerger'"):
        get_profile("supermergr")
