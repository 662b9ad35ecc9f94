"""Metadata as a tree: right on what tools write, bounded on what they should not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from stockpot.checkpoints import open_checkpoint
from stockpot.engine import merge
from stockpot.inspect import Node, metadata_tree
from stockpot.recipes import make_recipe


def lines(metadata: dict[str, str]) -> list[tuple[int, str, str]]:
    return [
        (depth, node.label, node.value)
        for root in metadata_tree(metadata)
        for depth, node in root.walk()
    ]


def test_a_chain_of_a1111() -> None:
    models = {
        "aa" * 32: {"name": "grandfather.safetensors", "sd_merge_recipe": None},
        "bb" * 32: {"name": "mother.safetensors", "sd_merge_recipe": None},
        "cc" * 32: {
            "name": "father.safetensors",
            "sd_merge_recipe": {
                "interp_method": "Weighted sum",
                "multiplier": 0.3,
                "primary_model_hash": "aa" * 32,
                "secondary_model_hash": "bb" * 32,
                "tertiary_model_hash": None,
            },
        },
    }
    recipe = {
        "interp_method": "Add difference",
        "multiplier": 1.0,
        "primary_model_hash": "cc" * 32,
        "secondary_model_hash": "bb" * 32,
        "tertiary_model_hash": "dd" * 32,
    }
    metadata = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}
    assert lines(metadata) == [
        (0, "merged by A1111", "3 models recorded"),
        (1, "this file", "Add difference, 1.0"),
        (2, "primary: father.safetensors [cccccccccc]", "Weighted sum, 0.3"),
        (3, "primary: grandfather.safetensors [aaaaaaaaaa]", ""),
        (3, "secondary: mother.safetensors [bbbbbbbbbb]", ""),
        (2, "secondary: mother.safetensors [bbbbbbbbbb]", ""),
        (2, "tertiary: unnamed [dddddddddd]", ""),
    ]


def test_a_real_chain(request: pytest.FixtureRequest) -> None:
    import os

    place = Path(os.environ.get("STOCKPOT_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not place.is_dir():
        pytest.skip("STOCKPOT_DATA is absent")
    data = json.loads((place / "recipes" / "recipe-10a.json").read_text())
    data = data.get("__metadata__", data)
    metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in data.items()}
    told = lines(metadata)
    models = json.loads(metadata["sd_merge_models"])
    assert told[0][2] == f"{len(models)} models recorded"
    n_edges = sum(
        isinstance(recipe.get(f"{role}_model_hash"), str)
        for recipe in [
            json.loads(metadata["sd_merge_recipe"]),
            *(m["sd_merge_recipe"] for m in models.values() if m["sd_merge_recipe"]),
        ]
        for role in ("primary", "secondary", "tertiary")
    )
    assert sum(depth > 1 for depth, _, _ in told) == n_edges


def test_a_chain_of_stockpot(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        weights = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float16)
        save_file({"w": weights}, tmp_path / f"{name}.safetensors")
    first = make_recipe("mean(a, b)", {n: f"{n}.safetensors" for n in "ab"})
    merge(first, tmp_path / "ab.safetensors", folder=tmp_path)
    second = make_recipe("lerp(ab, c, 0.25)", {n: f"{n}.safetensors" for n in ("ab", "c")})
    merge(second, tmp_path / "abc.safetensors", folder=tmp_path)
    with open_checkpoint(tmp_path / "abc.safetensors") as source:
        told = lines(dict(source.metadata))
    chain = [(depth, label) for depth, label, _ in told[:6]]
    assert chain == [
        (0, "merged by Stockpot"), (1, "this file"), (2, "ab"), (3, "a"), (3, "b"), (2, "c"),
    ]  # fmt: skip
    assert told[1][2] == "model = lerp(ab, c, 0.25)" and told[2][2] == "model = mean(a, b)"


def test_training_tags() -> None:
    tags = {"10_cat": {"cat": 30, " sitting": 5}, "5_dog": {"dog": 9, "sitting": 2}}
    tags["10_cat"] |= {f"t{number}": 1 for number in range(30)}
    metadata = {
        "ss_network_dim": "16",
        "ss_tag_frequency": json.dumps(tags),
        "ss_bucket_info": json.dumps({"buckets": {"0": {"resolution": [512, 512], "count": 3}}}),
        "ss_network_args": "{not json",
    }
    told = lines(metadata)
    assert told[:4] == [
        (0, "training", ""),
        (1, "network_dim", "16"),
        (1, "tag_frequency", "33 tags in 2 folders"),
        (2, "cat", "30"),
    ]
    assert (2, "dog", "9") in told and (2, "sitting", "7") in told
    assert (2, "…", "and 13 more tags") in told
    assert (4, "resolution", "512, 512") in told
    assert (1, "network_args", "{not json") in told


@pytest.mark.parametrize(
    "metadata",
    [
        {"sd_merge_models": "[]"},
        {"sd_merge_recipe": "{"},
        {"sd_merge_recipe": "[" * 100_000},
        {"stockpot.provenance": "{}"},
        {"stockpot.provenance": "x", "stockpot.recipe": "y"},
    ],
)
def test_what_cannot_be_understood_is_said_to_be(metadata: dict[str, str]) -> None:
    assert "cannot be understood" in lines(metadata)[0][2]


def test_circles_and_floods_end() -> None:
    digest = "ee" * 32
    recipe = {"primary_model_hash": digest, "secondary_model_hash": digest}
    models = {digest: {"name": "me", "sd_merge_recipe": recipe}}
    metadata = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}
    told = lines(metadata)
    assert len(told) < 10 and any(value == "told above" for _, _, value in told)
    chain = {
        f"{n:064x}": {"name": "n", "sd_merge_recipe": {"primary_model_hash": f"{n + 1:064x}"}}
        for n in range(5000)
    }
    metadata = {
        "sd_merge_recipe": json.dumps({"primary_model_hash": f"{0:064x}"}),
        "sd_merge_models": json.dumps(chain),
    }
    assert max(depth for depth, _, _ in lines(metadata)) < 100
    flood = json.dumps({str(a): {str(b): {"c": [{}] * 20} for b in range(90)} for a in range(90)})
    assert len(lines({"ss_flood": flood, "flood": flood})) < 20_000
    many = {f"k{n}": "v" * 10_000 for n in range(10_000)}
    told = lines(many)
    assert len(told) < 200 and all(len(value) < 400 for _, _, value in told)
    assert lines({"n": "[" + "9" * 5000 + "]"})  # Python refuses to print such numbers


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)
names = st.sampled_from(
    "ss_tag_frequency ss_x sd_merge_recipe sd_merge_models stockpot.provenance stockpot.repair "
    "modelspec.title x".split()
)


@given(metadata=st.dictionaries(names, values.map(json.dumps) | st.text()))
@settings(max_examples=150, deadline=None)
def test_any_metadata_becomes_a_tree(metadata: dict[str, str]) -> None:
    tree = metadata_tree(metadata)
    assert all(isinstance(node, Node) for node in tree)
    json.dumps([node.to_json() for node in tree])
