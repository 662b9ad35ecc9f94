"""Pictures of a checkpoint, on disk or in memory: prompts, samplers, contact sheets.

Importing this package loads neither torch nor diffusers; opening a painter does.
"""

from stockpot.draw.attention import BREAK, Emphasised, parse_attention, split_and
from stockpot.draw.brownian import BrownianPath
from stockpot.draw.chunks import Chunk, Chunked, Placed, TokenTable, cut_into_chunks
from stockpot.draw.comparing import (
    Likeness,
    PictureFacts,
    compare_pictures,
    describe_picture,
    embed_pictures,
    mean_squared_error,
    perceptual_distance,
    sift_matches,
    structural_similarity,
    zoo_features,
)
from stockpot.draw.conditioning import (
    EMPHASES,
    Conditioner,
    Conditioning,
    EmphasisMode,
    apply_emphasis,
)
from stockpot.draw.descriptions import Description, describe, read_description
from stockpot.draw.embeddings import Embedding, find_extras, read_embedding
from stockpot.draw.finding import Shelf, find_named
from stockpot.draw.freeu import FreeU, FreeUStage, filter_low, freeu_hooks, scale_backbone
from stockpot.draw.grids import (
    Axis,
    CellMix,
    DrawnGrid,
    GridCell,
    difference,
    draw_grid,
    parse_axis,
)
from stockpot.draw.guidance import THRESHOLD_MODES, Thresholding, rescale_guidance, threshold
from stockpot.draw.hires import IMAGE_UPSCALERS, LATENT_UPSCALERS, Hires, enlarge
from stockpot.draw.infotext import parse_infotext, write_infotext
from stockpot.draw.libraries import require_libraries
from stockpot.draw.loading import DRAWABLE, load_parts
from stockpot.draw.loras import Lora, LoraSet, read_lora
from stockpot.draw.measures import MEASURES, Measure, Measurer
from stockpot.draw.memory import (
    VRAM,
    Vram,
    check_device,
    few_threads,
    peak_bytes,
    reset_peak,
    save_memory,
)
from stockpot.draw.mixing import LiveMix, Switched, hold, open_live
from stockpot.draw.noises import NOISES, Noises, NoiseSource, philox_normal
from stockpot.draw.painter import (
    BrokenPictureWarning,
    Drawn,
    Painter,
    UnheardPromptWarning,
    open_painter,
)
from stockpot.draw.parts import Parts
from stockpot.draw.payloads import parse_payload, read_json, read_payload, to_payload
from stockpot.draw.pictures import Pictures, from_png, read_parameters, to_png
from stockpot.draw.prompt_words import (
    LoraTag,
    Wildcards,
    fill_wildcards,
    replace_words,
    take_loras,
)
from stockpot.draw.prompts import CutPromptWarning
from stockpot.draw.requests import Named, PlotAxis, ReadRequest, Request
from stockpot.draw.samplers import (
    SAMPLERS,
    SCHEDULES,
    Sampler,
    get_sampler,
    make_scheduler,
    set_steps,
)
from stockpot.draw.schedules import Span, schedule_prompt
from stockpot.draw.settings import DrawSettings
from stockpot.draw.sheets import Box, ContactSheet, contact_sheet
from stockpot.draw.studio import (
    Finished,
    draw_request,
    draw_singles,
    paint_alike,
    read_wildcards,
    split_request,
    with_seed,
    write_file,
)
from stockpot.draw.tiling import edges_meet
from stockpot.draw.tokenizers import find_tokenizer
from stockpot.draw.webui import SentPicture, WebUI, WebUIError

__all__ = [
    "BREAK",
    "DRAWABLE",
    "EMPHASES",
    "IMAGE_UPSCALERS",
    "LATENT_UPSCALERS",
    "MEASURES",
    "NOISES",
    "SAMPLERS",
    "SCHEDULES",
    "THRESHOLD_MODES",
    "VRAM",
    "Axis",
    "Box",
    "BrokenPictureWarning",
    "BrownianPath",
    "CellMix",
    "Chunk",
    "Chunked",
    "Conditioner",
    "Conditioning",
    "ContactSheet",
    "CutPromptWarning",
    "Description",
    "DrawSettings",
    "Drawn",
    "DrawnGrid",
    "Embedding",
    "EmphasisMode",
    "Emphasised",
    "Finished",
    "FreeU",
    "FreeUStage",
    "GridCell",
    "Hires",
    "Likeness",
    "LiveMix",
    "Lora",
    "LoraSet",
    "LoraTag",
    "Measure",
    "Measurer",
    "Named",
    "NoiseSource",
    "Noises",
    "Painter",
    "Parts",
    "PictureFacts",
    "Pictures",
    "Placed",
    "PlotAxis",
    "ReadRequest",
    "Request",
    "Sampler",
    "SentPicture",
    "Shelf",
    "Span",
    "Switched",
    "Thresholding",
    "TokenTable",
    "UnheardPromptWarning",
    "Vram",
    "WebUI",
    "WebUIError",
    "Wildcards",
    "apply_emphasis",
    "check_device",
    "compare_pictures",
    "contact_sheet",
    "cut_into_chunks",
    "describe",
    "describe_picture",
    "difference",
    "draw_grid",
    "draw_request",
    "draw_singles",
    "edges_meet",
    "embed_pictures",
    "enlarge",
    "few_threads",
    "fill_wildcards",
    "filter_low",
    "find_extras",
    "find_named",
    "find_tokenizer",
    "freeu_hooks",
    "from_png",
    "get_sampler",
    "hold",
    "load_parts",
    "make_scheduler",
    "mean_squared_error",
    "open_live",
    "open_painter",
    "paint_alike",
    "parse_attention",
    "parse_axis",
    "parse_infotext",
    "parse_payload",
    "peak_bytes",
    "perceptual_distance",
    "philox_normal",
    "read_description",
    "read_embedding",
    "read_json",
    "read_lora",
    "read_parameters",
    "read_payload",
    "read_wildcards",
    "replace_words",
    "require_libraries",
    "rescale_guidance",
    "reset_peak",
    "save_memory",
    "scale_backbone",
    "schedule_prompt",
    "set_steps",
    "sift_matches",
    "split_and",
    "split_request",
    "structural_similarity",
    "take_loras",
    "threshold",
    "to_payload",
    "to_png",
    "with_seed",
    "write_file",
    "write_infotext",
    "zoo_features",
]
