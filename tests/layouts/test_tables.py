"""The tables, against networks that diffusers and transformers built (`bench/layouts`)."""

from math import prod
from pathlib import Path

import pytest

from stockpot.layouts import LAYOUTS, KeySpec, Layout, Shape, get_layout

TABLES = Path(__file__).parent / "tables"

COMPONENTS = [
    ("sd1", "unet", "sd1-unet"),
    ("sd1", "te", "clip-l"),
    ("sd1", "vae", "vae"),
    ("sd2", "unet", "sd2-unet"),
    ("sd2", "te", "openclip-h"),
    ("sd2", "vae", "vae"),
    ("sdxl", "unet", "sdxl-unet"),
    ("sdxl", "te0", "clip-l"),
    ("sdxl", "te1", "openclip-g"),
    ("sdxl", "vae", "vae"),
]

# Left over from CLIP's training; no network that draws has it.
HEADS = {
    "cond_stage_model.transformer.text_projection.weight",
    "conditioner.embedders.0.transformer.text_projection.weight",
}


def read_table(name: str) -> dict[str, Shape]:
    table = {}
    for line in (TABLES / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        key, shape = line.split(" ")
        table[key] = () if shape == "-" else tuple(map(int, shape.split(",")))
    return table


def weights(layout: Layout, component: str) -> list[KeySpec]:
    return [
        spec
        for spec in layout.specs.values()
        if spec.cell.component == component and spec.role == "weight" and spec.key not in HEADS
    ]


def n_params(specs: list[KeySpec]) -> int:
    return sum(prod(spec.shape) for spec in specs)


@pytest.mark.parametrize(("name", "component", "table"), COMPONENTS)
def test_keys_and_shapes_equal_those_of_the_built_network(
    name: str, component: str, table: str
) -> None:
    layout = get_layout(name)
    ours = {layout.relative_key(spec.key): spec.shape for spec in weights(layout, component)}
    assert ours == read_table(table)


@pytest.mark.parametrize(
    ("name", "component", "n_keys", "n_expected"),
    [
        ("sd1", "unet", 686, 859_520_964),
        ("sd2", "unet", 686, 865_910_724),
        ("sdxl", "unet", 1680, 2_567_463_684),
        ("sd1", "te", 196, 123_060_480),
        ("sdxl", "te0", 196, 123_060_480),
        ("sd1", "vae", 248, 83_653_863),
        ("sd2", "vae", 248, 83_653_863),
        ("sdxl", "vae", 248, 83_653_863),
        ("sdxl", "te1", 390, 694_659_841),
        ("sd2", "te", 294, 354_032_641),
    ],
)
def test_parameter_totals(name: str, component: str, n_keys: int, n_expected: int) -> None:
    specs = weights(get_layout(name), component)
    assert (len(specs), n_params(specs)) == (n_keys, n_expected)


def test_the_zoo_has_the_unet_key_names_of_sd1() -> None:
    names = [{spec.key for spec in weights(get_layout(name), "unet")} for name in ("sd1", "zoo")]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("name", "required"),
    [
        ("sd1", {"unet": 686, "te": 196, "vae": 248}),
        # The last of 24 layers and the projection are never used, so files may lack them.
        ("sd2", {"unet": 686, "te": 280, "vae": 248}),
        ("sdxl", {"unet": 1680, "te0": 196, "te1": 389, "vae": 248}),
    ],
)
def test_required_keys(name: str, required: dict[str, int]) -> None:
    assert get_layout(name).n_required == required


def test_what_sd2_may_lack() -> None:
    optional = [s.key for s in weights(get_layout("sd2"), "te") if s.optional]
    assert len(optional) == 14
    rest = {key for key in optional if ".resblocks.23." not in key}
    assert rest == {"cond_stage_model.model.text_projection", "cond_stage_model.model.logit_scale"}


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "zoo"])
def test_schedules_and_markers_are_optional_and_no_weights(name: str) -> None:
    others = {
        spec.key: spec for spec in get_layout(name).specs.values() if spec.cell.component == "other"
    }
    assert {"betas", "alphas_cumprod", "posterior_mean_coef2", "denoiser.sigmas"} <= set(others)
    assert all(spec.optional for spec in others.values())
    assert {others["v_pred"].role, others["ztsnr"].role} == {"marker"}
    assert others["betas"].role == "buffer" and others["betas"].shape == (1000,)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "zoo"])
def test_blocks_are_contiguous_in_the_table_and_named_as_people_name_them(name: str) -> None:
    layout = get_layout(name)
    n_blocks = 9 if name == "sdxl" else 12
    blocks = [cell.block for cell in layout.cells if cell.component == "unet"]
    label = ["label_emb"] if name == "sdxl" else []
    down = [f"IN{i:02d}" for i in range(n_blocks)]
    up = [f"OUT{i:02d}" for i in range(n_blocks)]
    assert blocks == ["time_embed", *label, *down, "M00", *up, "out"]
    assert [cell.block for cell in layout.cells if cell.component == "vae"] == [
        "encoder",
        "decoder",
    ]


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "zoo"])
def test_block_of_a_key_follows_from_its_number(name: str) -> None:
    prefix = "model.diffusion_model."
    for spec in weights(get_layout(name), "unet"):
        head, _, rest = spec.key.removeprefix(prefix).partition(".")
        number = rest.partition(".")[0]
        expected = {
            "input_blocks": f"IN{number:>02}",
            "output_blocks": f"OUT{number:>02}",
            "middle_block": "M00",
        }.get(head, head)
        assert spec.cell.block == expected, spec.key


def test_counters_of_every_clip_text_encoder() -> None:
    found = [
        spec.key
        for layout in LAYOUTS.values()
        for spec in layout.specs.values()
        if spec.role == "counter"
    ]
    assert found == [
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
    ]
