"""Pictures of a checkpoint, on disk or in memory: prompts, samplers, contact sheets.

Importing this package loads neither torch nor diffusers; opening a painter does. It knows nothing
of merging: a merge in memory is a source like any other.
"""

from stockpot.draw.libraries import require_libraries
from stockpot.draw.loading import DRAWABLE, Parts, load_parts
from stockpot.draw.painter import BrokenPictureWarning, DrawSettings, Painter, open_painter
from stockpot.draw.pictures import Pictures, to_png
from stockpot.draw.prompts import CutPromptWarning, encode_prompts
from stockpot.draw.samplers import SAMPLERS, Sampler, get_sampler, make_scheduler
from stockpot.draw.sheets import Box, ContactSheet, contact_sheet

__all__ = [
    "DRAWABLE",
    "SAMPLERS",
    "Box",
    "BrokenPictureWarning",
    "ContactSheet",
    "CutPromptWarning",
    "DrawSettings",
    "Painter",
    "Parts",
    "Pictures",
    "Sampler",
    "contact_sheet",
    "encode_prompts",
    "get_sampler",
    "load_parts",
    "make_scheduler",
    "open_painter",
    "require_libraries",
    "to_png",
]
