"""What a key means, and how a file fits a layout."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import LayoutError, UnknownNameError
from stockpot.layouts import LAYOUTS, PROFILES, Cell, Layout, Shape, counter_values, get_layout

KNOWN = ["sd1", "sd2", "sdxl", "zoo"]
SD1_TEXT = "cond_stage_model.transformer.text_model."
POSITION_IDS = f"{SD1_TEXT}embeddings.position_ids"


def complete(layout: Layout) -> dict[str, Shape]:
    return {key: spec.shape for key, spec in layout.specs.items() if not spec.optional}


def keys_of(layout: Layout) -> st.SearchStrategy[str]:
    """Keys that exist, keys that nearly exist, and anything."""
    real = st.sampled_from([*layout.specs, "model_ema.decay", "x"])
    return st.one_of(
        real,
        real.map(lambda key: key.replace("text_model.", "", 1)),
        real.map(lambda key: "model_ema." + key.removeprefix("model.").replace(".", "")),
        st.builds(lambda key, cut: key[:cut], real, st.integers(0, 80)),
        st.text(max_size=40),
    )


@pytest.mark.parametrize("name", list(LAYOUTS))
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_every_string_has_a_cell_and_one_canonical_name(name: str, data: st.DataObject) -> None:
    layout = get_layout(name)
    key = data.draw(keys_of(layout))
    cell = layout.cell_of(key)
    assert cell in layout.cells
    assert cell.component in layout.component_names("model")
    canonical = layout.canonical_key(key)
    assert layout.canonical_key(canonical) == canonical
    assert layout.cell_of(canonical) == cell
    assert layout.relative_key(canonical) == layout.relative_key(key)


@pytest.mark.parametrize(
    ("name", "key", "cell"),
    [
        ("sd1", "model.diffusion_model.time_embed.0.bias", "unet.time_embed"),
        ("sd1", "model.diffusion_model.input_blocks.11.0.emb_layers.1.bias", "unet.IN11"),
        ("sd1", "model.diffusion_model.middle_block.1.norm.bias", "unet.M00"),
        ("sd1", "model.diffusion_model.output_blocks.2.1.conv.bias", "unet.OUT02"),
        ("sd1", "model.diffusion_model.out.0.weight", "unet.out"),
        ("sd1", "first_stage_model.quant_conv.weight", "vae.encoder"),
        ("sd1", "first_stage_model.post_quant_conv.weight", "vae.decoder"),
        ("sd1", f"{SD1_TEXT}encoder.layers.3.mlp.fc1.bias", "te.layer03"),
        ("sd1", f"{SD1_TEXT}final_layer_norm.bias", "te.final"),
        ("sd1", POSITION_IDS, "te.embeddings"),
        ("sd1", "cond_stage_model.transformer.encoder.layers.3.mlp.fc1.bias", "te.layer03"),
        ("sd1", "model_ema.diffusion_modelout2bias", "ema.all"),
        ("sd1", "model_ema.never.heard.of", "ema.all"),
        ("sd1", "alphas_cumprod", "other.all"),
        ("sd1", "v_pred", "other.all"),
        ("sd1", "model.diffusion_model.label_emb.0.0.weight", "unknown.all"),
        ("sd1", "", "unknown.all"),
        ("sd2", "cond_stage_model.model.transformer.resblocks.9.ln_1.bias", "te.layer09"),
        ("sd2", "cond_stage_model.model.positional_embedding", "te.embeddings"),
        ("sdxl", "model.diffusion_model.label_emb.0.0.weight", "unet.label_emb"),
        ("sdxl", "conditioner.embedders.0.transformer.final_layer_norm.bias", "te0.final"),
        ("sdxl", "conditioner.embedders.1.model.text_projection", "te1.final"),
        ("sdxl", "denoiser.sigmas", "other.all"),
        ("generic", "model.diffusion_model.out.0.weight", "model.all"),
        ("generic", "model_ema.decay", "model.all"),
    ],
)
def test_cell_of(name: str, key: str, cell: str) -> None:
    assert str(get_layout(name).cell_of(key)) == cell


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("sd1", "cond_stage_model.transformer."),
        ("zoo", "cond_stage_model.transformer."),
        ("sdxl", "conditioner.embedders.0.transformer."),
    ],
)
def test_every_text_encoder_key_is_found_under_novelais_name(name: str, prefix: str) -> None:
    layout = get_layout(name)
    start = f"{prefix}text_model."
    long = [key for key in layout.specs if key.startswith(start)]
    assert len(long) > 30
    for key in long:
        short = prefix + key[len(start) :]
        assert layout.canonical_key(short) == key
        assert layout.spec_of(short) is layout.specs[key]


@pytest.mark.parametrize("name", KNOWN)
def test_relative_keys_are_unique_within_a_component(name: str) -> None:
    layout = get_layout(name)
    seen = [(spec.cell.component, layout.relative_key(spec.key)) for spec in layout.specs.values()]
    assert len(set(seen)) == len(seen)


def test_one_text_encoder_has_the_same_relative_keys_everywhere() -> None:
    names = []
    for name, component in (("sd1", "te"), ("sdxl", "te0")):
        layout = get_layout(name)
        specs = (spec for spec in layout.specs.values() if spec.cell.component == component)
        names.append({layout.relative_key(spec.key) for spec in specs})
    assert names[0] == names[1]
    assert "text_model.embeddings.token_embedding.weight" in names[0]


@pytest.mark.parametrize("name", KNOWN)
def test_ema_keys_follow_from_the_unet(name: str) -> None:
    layout = get_layout(name)
    unet = [spec for spec in layout.specs.values() if spec.cell.component == "unet"]
    for spec in unet:
        short = spec.key.removeprefix("model.diffusion_model.").replace(".", "")
        for key in (f"model_ema.diffusion_model{short}", f"model_ema.{short}"):
            found = layout.spec_of(key)
            assert found is not None and found.key == key and found.optional
            assert (found.shape, found.role, str(found.cell)) == (spec.shape, "weight", "ema.all")
    for key in ("model_ema.decay", "model_ema.num_updates"):
        found = layout.spec_of(key)
        assert found is not None and found.role == "buffer"


def test_component_names() -> None:
    sd1, sdxl, generic = get_layout("sd1"), get_layout("sdxl"), get_layout("generic")
    assert sd1.component_names("te") == ("te",)
    assert sdxl.component_names("te") == ("te0", "te1")
    assert sdxl.component_names("te1") == ("te1",)
    everything = ("unet", "te", "vae", "ema", "other", "unknown")
    assert sd1.component_names("model") == everything
    assert generic.component_names("model") == ("model",)
    with pytest.raises(UnknownNameError, match="unknown component of Stable Diffusion 1 'te0'"):
        sd1.component_names("te0")
    with pytest.raises(UnknownNameError, match="did you mean 'unet'"):
        sdxl.component_names("unit")
    for name in ("te", "unet", ""):
        with pytest.raises(UnknownNameError, match="known: model"):
            generic.component_names(name)


def test_counter_values() -> None:
    spec = get_layout("sd1").specs[POSITION_IDS]
    assert spec.role == "counter" and spec.optional
    assert counter_values(spec) == tuple(range(77))
    with pytest.raises(LayoutError, match="'betas' is a buffer; copy it from a file"):
        counter_values(get_layout("sd1").specs["betas"])


def test_unknown_layout_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'sdxl'"):
        get_layout("sdx")


@pytest.mark.parametrize("name", KNOWN)
def test_a_complete_file_fits(name: str) -> None:
    layout = get_layout(name)
    for tensors in (complete(layout), {key: spec.shape for key, spec in layout.specs.items()}):
        fit = layout.fit(tensors)
        assert fit.complete
        assert not (fit.aliased or fit.reshaped or fit.missing_components)
        assert fit.matched == layout.n_required


def test_fit_names_every_difference() -> None:
    layout = get_layout("sd1")
    tensors = complete(layout)
    del tensors["model.diffusion_model.out.2.bias"]
    for key in [key for key in tensors if key.startswith(SD1_TEXT)]:
        del tensors[key]
    tensors["first_stage_model.decoder.mid.attn_1.q.weight"] = (512, 512)
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = (320, 9, 3, 3)
    tensors["mystery"] = (1,)
    tensors["model_ema.decay"] = ()
    tensors["model_ema.diffusion_modelout2bias"] = (4,)
    tensors["model_ema.mystery"] = (4,)
    tensors["v_pred"] = (3, 3)
    fit = layout.fit(tensors)
    assert fit.missing_components == ("te",)
    assert fit.missing_in["unet"] == ("model.diffusion_model.out.2.bias",)
    assert len(fit.missing_in["te"]) == 196
    assert fit.missing == (*fit.missing_in["unet"], *fit.missing_in["te"])
    assert fit.unknown == ("mystery", "model_ema.mystery")
    assert fit.mismatched == (
        ("model.diffusion_model.input_blocks.0.0.weight", (320, 9, 3, 3), (320, 4, 3, 3)),
    )
    assert fit.reshaped == {
        "first_stage_model.decoder.mid.attn_1.q.weight": ((512, 512), (512, 512, 1, 1))
    }
    assert not fit.complete


def test_novelai_names_are_reported_and_a_second_copy_is_not_silently_chosen() -> None:
    layout = get_layout("sd1")
    tensors = complete(layout)
    nai = {key.replace("text_model.", ""): shape for key, shape in tensors.items()}
    fit = layout.fit(nai)
    assert fit.complete
    assert len(fit.aliased) == 196
    assert all(layout.canonical_key(key) == name for key, name in fit.aliased.items())
    both = layout.fit({**tensors, **nai})
    assert not both.aliased
    assert len(both.unknown) == 196
    assert not both.missing


def test_position_ids_alone_do_not_make_a_text_encoder() -> None:
    layout = get_layout("sd1")
    tensors = {key: shape for key, shape in complete(layout).items() if "cond_stage" not in key}
    fit = layout.fit({**tensors, POSITION_IDS: (77,)})
    assert fit.missing_components == ("te",)
    assert fit.reshaped == {POSITION_IDS: ((77,), (1, 77))}


def test_the_generic_layout_expects_nothing() -> None:
    fit = get_layout("generic").fit({"a": (1,), "b": ()})
    assert fit.complete and not fit.matched


def test_cells_sort_and_print() -> None:
    assert str(Cell("unet", "IN00")) == "unet.IN00"
    assert sorted([Cell("vae", "decoder"), Cell("te", "final")])[0].component == "te"


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_layouts_profiles_and_fits_travel_to_other_processes(name: str) -> None:
    layout = get_layout(name)
    fit = layout.fit({"model_ema.decay": (), "x": (1,)})
    again, fit_again = pickle.loads(pickle.dumps((layout, fit)))
    assert again == layout and hash(again) == hash(layout)
    assert again.specs == layout.specs and fit_again == fit
    profiles = tuple(PROFILES.values())
    assert set(pickle.loads(pickle.dumps(profiles))) == set(profiles)
