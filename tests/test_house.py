"""The house itself: rooms depend downwards, doors have signs, public names are what we promised."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import stockpot

ROOT = Path(stockpot.__file__).parent

# Ground floor first; docs/design.md says why.
FLOORS = (
    ("errors",),
    ("adapters", "checkpoints", "layouts", "methods", "recipes", "zoo"),
    ("engine", "compare", "scores"),
    ("cluster", "draw", "inspect"),
    ("tune",),
    ("select",),
    ("report",),
    ("studies",),
    ("cli", "__main__"),
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a module imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("stockpot.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_depend_downwards(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0]
    upward = {room for room in imported_rooms(path) if FLOOR[room] > FLOOR[here]}
    assert not upward, f"{here} must not know of {upward}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_definition_has_a_docstring_and_no_file_is_too_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    assert not list(_silent(ast.parse(text).body))


def _silent(body: list[ast.stmt]) -> Iterator[str]:
    """Public definitions without a docstring; what is inside functions is nobody's door."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from _silent(node.body)


PUBLIC = {
    "stockpot.adapters": (
        "AdapterSource Change ENDINGS Elementwise Extracted Extraction Full Kronecker Low "
        "Module Target extract_lora find_modules flat_name has_modules layout_of_adapter "
        "targets_of"
    ),
    "stockpot.checkpoints": (
        "Arrangement DTYPES DType FileHashes FileSink FolderSink GeneratedSource Header "
        "JoinedSource Journal MemorySink MemorySource Place RenamingSink Run SafetensorsFile "
        "Sink Source Stamps TensorInfo TorchFile View Viewed content_hash differences "
        "encode_header file_bytes file_hashes free_bytes get_dtype hash_tensors in_file_order "
        "is_unfinished open_checkpoint read_header read_lines size_text write_whole"
    ),
    "stockpot.methods": (
        "BLOCK_ELEMENTS CPU Device Doubles Feed Gram GramAccumulator HAS_COMPILED_KERNEL METHODS "
        "Method Parameters Row RowFacts Task Work begin best_order by_element by_gram by_ranks "
        "by_tensor combine find_nonfinite get_method is_finite narrow one_blas_thread open_device "
        "order_blocks ranked runs_on_devices sum_grams weighted_rows widen with_zeros"
    ),
    "stockpot.engine": (
        "Ancestor Ask Book Chunking Crew DEFAULT_MEMORY Digests Estimate Form History "
        "InputFound InputRecord Labels MergeResult Meter MethodCosts Opening Part Pipeline Plan "
        "Post Progress ProgressCallback Remade Route SWAPPABLE Settings Shelf Step Stop "
        "TensorPlan Term Verdict arranged compare_shares convert device_of estimate_plan "
        "extract facts_of_source find_route give_back_memory in_form make_plan merge "
        "merge_in_memory method_costs open_pool parse_size prune read_history read_labels remake "
        "replay run_plan shares_of size_text swap take_chunks unprune verify"
    ),
    "stockpot.compare": (
        "Comparison ComponentFindings Convergence Descent DistanceTable Duplicates Exclusion "
        "Explanation Families FamilyTree Findings Group Map ModelFacts Outlier Pairs Part Place "
        "Stage WEIGHTS add_mixes compare delta_norms distance_table effective_dimension explain "
        "find_duplicates find_families find_family_tree find_outliers list_stages "
        "load_comparison members_of_chain place_by_distance place_by_spectrum "
        "read_distance_table recover_recipe save_comparison scale_bar simple_ratios study "
        "trace_convergence"
    ),
    "stockpot.errors": (
        "CheckpointError ClusterError DeviceError DeviceMemoryError HeaderError LayoutError "
        "LostWorkerError MemoryBudgetError MissingExtraError MissingWeightsError OutputError "
        "OutputExistsError PreflightError Problem ProblemsError RecipeError RequestError "
        "ScorerError StockpotError StoppedError StudyError TallyError TruncatedFileError "
        "UnconfirmedError UnfinishedError UnknownNameError UnsafeFileError VerificationError "
        "memory_told"
    ),
    "stockpot.draw": (
        "Axis BREAK Box BrokenPictureWarning BrownianPath CellMix Chunk Chunked Conditioner "
        "Conditioning ContactSheet CutPromptWarning DRAWABLE Description DrawSettings Drawn "
        "DrawnGrid EMPHASES Embedding EmphasisMode Emphasised Finished FreeU FreeUStage "
        "GridCell Hires IMAGE_UPSCALERS LATENT_UPSCALERS Likeness LiveMix Lora LoraSet LoraTag "
        "MEASURES Measure Measurer NOISES Named NoiseSource Noises Painter Parts PictureFacts "
        "Pictures Placed PlotAxis ReadRequest Request SAMPLERS SCHEDULES Sampler SentPicture "
        "Shelf Span Switched THRESHOLD_MODES Thresholding TokenTable UnheardPromptWarning VRAM "
        "Vram WebUI WebUIError Wildcards apply_emphasis check_device compare_pictures "
        "contact_sheet cut_into_chunks describe describe_picture difference draw_grid "
        "draw_request draw_singles edges_meet embed_pictures enlarge few_threads fill_wildcards "
        "filter_low find_extras find_named find_tokenizer freeu_hooks from_png get_sampler hold "
        "load_parts make_scheduler mean_squared_error open_live open_painter paint_alike "
        "parse_attention parse_axis parse_infotext parse_payload peak_bytes perceptual_distance "
        "philox_normal read_description read_embedding read_json read_lora read_parameters "
        "read_payload "
        "read_wildcards replace_words require_libraries rescale_guidance reset_peak save_memory "
        "scale_backbone schedule_prompt set_steps sift_matches split_and split_request "
        "structural_similarity take_loras threshold to_payload to_png with_seed write_file "
        "write_infotext zoo_features"
    ),
    "stockpot.layouts": (
        "Alias Cell ClipText Component Detection Fit KeySpec LAYOUTS Layout OpenClipText "
        "PROFILES Part Profile Row SCHEDULER_FILE Shape Symmetry UNet Units UnitsOf Vae "
        "as_checkpoint counter_values detect diffusers_files diffusers_names diffusers_places "
        "get_layout get_profile known_layouts moved norm_rows part_of profiles_for restricted "
        "spread supermerger_26_to_20 symmetries_of weight_and_bias"
    ),
    "stockpot.recipes": (
        "Atom Call Called DTYPES Difference Expr FORMS FUNCTIONS Finding Fold Function "
        "Invocation Items MIX_KEYS MissingModelError Name Number Origin PLUGINS POOL Parameter "
        "PoolEntry RESERVED Recipe Row STATUSES Save TableRow Text adapters_in add_difference "
        "atoms_below blocks call canonical compare_folds draw_graph draw_shares export_recipe "
        "find_function fold functions_in glob lerp likely_layout linear lint make_recipe mean "
        "model models_below models_in name_files name_of_file names_in parse_expression "
        "parse_recipe print_expression read_recipe read_small_yaml search weighted_sum"
    ),
    "stockpot.report": (
        "Ballot Band Cell Chart Code Curve Dendrogram Facts Figures Gallery GalleryRow GridPage "
        "GridPicture GridRow Heat HeatRow HeatTable Joint Link MapChart Mark Note Page Section "
        "Table TableRow Tile chart_csv chart_json draw_chart render_grid render_page write_grid "
        "write_page"
    ),
    "stockpot.scores": (
        "Asker AttributeJudge CafeAesthetic CallableScorer ClipReward ClipScore Colourfulness "
        "CommandScorer Comparison Contrast Detail FITS HpsV2 HumanChoice Hybrid ImageReward "
        "Images LaionAesthetic Need PageAsker Part PickScore Picture Piqe Question Reading "
        "SCORERS Scale Scorer Scores Setting Sharpness Statistics TerminalAsker Transform "
        "UnreadPromptWarning check_images fit_strengths is_there judge_network make_scorer "
        "picture_statistics piqe plain_prompt plugins read_picture read_scales read_texts "
        "scales_to_json scorers_folder"
    ),
    "stockpot.tune": (
        "ALONE AUTOMBW_TALLIES Baseline BaselineMaker Begin Book CallableExaminer Candidate "
        "Claims CrewExaminer Decision Dial Drift Effect Exam Examiner GUARDED GrowingTree Hole "
        "ImportedRows KeptMark Limits LiveExaminer Mark NEAR OPTIMISERS ORDERS Optimiser "
        "Proposal Result SPACES Search SearchSettings Space Standing StudyStore TALLIES Task "
        "Tree TreeNode UNIFORM Verdict WILDCARD_TYPES Worker best_trials bootstrap_mean "
        "candidate_key check_memory check_optimiser check_tally compare_marks "
        "estimate_effects evidence examine_on_crew "
        "fill_holes find_holes guard hold_out import_rows is_begun is_worse judge make_baselines "
        "make_sampler make_space nearness_to_uniform open_examiner open_store pareto_front "
        "picture_facts plan_tree propose read_exam read_values result_json run_search "
        "score_together scores_of shown_address spread_holes sums_of_models tally trees_in"
    ),
    "stockpot.zoo": "Extra Member ZooNotInstalled extras family member zoo_path",
    "stockpot.inspect": (
        "CACHE_VARIABLE CODES Cache Code ComponentFacts Foreign Identity Inspection Node "
        "RepairPlan Traits Wanted Waste cache_folder find_checkpoints identify "
        "inspect_checkpoint inspect_path inspect_paths metadata_tree plan_repair repair "
        "shared_components"
    ),
    "stockpot.select": (
        "Ask Choice Cost Decision Decisions Evidence Marks Member Outcome PLANS Pool Rule "
        "Selection Setup Step Stopped author_plan decide decisions_json expected_cost find_core "
        "greedy_drop greedy_soup leave_one_out read_decisions select_models shapley "
        "survey_members used_table"
    ),
    "stockpot.studies": (
        "Answer Classifier Contrast Embed Gallery Interval Made Mantel STUDIES Setting Study "
        "average bootstrap_means contrast_all correlate find_studies groups_of holm mantel mse "
        "own_encoders plain_data random_orders read_concepts scorer_classifier shrink "
        "sift_apart sign_flips structure_apart zoo_classifier zoo_embedding"
    ),
    "stockpot.cluster": "LOCAL Node RayCrew open_cluster",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_pinned(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(PUBLIC[name].split())
    assert all(hasattr(module, public) for public in module.__all__)
