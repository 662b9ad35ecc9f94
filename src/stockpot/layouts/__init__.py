"""What a key means: architecture, component, block; and block-weight profiles.

Nothing here knows of values: layouts speak of keys and shapes, so that a file can be understood
from its header alone, and importing this package loads no tensor library. What other programs call
the same keys is seen through views (`as_checkpoint`).

Example:
    >>> from stockpot.layouts import detect, get_layout
    >>> shapes = {key: spec.shape for key, spec in get_layout("sdxl").specs.items()}
    >>> print(detect(shapes).evidence[0])
    model.diffusion_model.label_emb.0.0.weight is [1280, 2816], as in Stable Diffusion XL
"""

from stockpot.layouts._base import (
    Cell,
    Component,
    KeySpec,
    Part,
    Row,
    Shape,
    counter_values,
    norm_rows,
    weight_and_bias,
)
from stockpot.layouts._layout import Fit, Layout
from stockpot.layouts.architectures import LAYOUTS
from stockpot.layouts.detection import Detection, detect
from stockpot.layouts.diffusers_folder import SCHEDULER_FILE, diffusers_files, diffusers_places
from stockpot.layouts.diffusers_names import Alias, diffusers_names
from stockpot.layouts.profiles import (
    PROFILES,
    Profile,
    get_profile,
    profiles_for,
    spread,
    supermerger_26_to_20,
)
from stockpot.layouts.registry import get_layout, known_layouts
from stockpot.layouts.symmetries import Symmetry, Units, UnitsOf, symmetries_of
from stockpot.layouts.text import ClipText, OpenClipText
from stockpot.layouts.unet import UNet
from stockpot.layouts.vae import Vae
from stockpot.layouts.views import as_checkpoint, moved, part_of, restricted

__all__ = [
    "LAYOUTS",
    "PROFILES",
    "SCHEDULER_FILE",
    "Alias",
    "Cell",
    "ClipText",
    "Component",
    "Detection",
    "Fit",
    "KeySpec",
    "Layout",
    "OpenClipText",
    "Part",
    "Profile",
    "Row",
    "Shape",
    "Symmetry",
    "as_checkpoint",
    "UNet",
    "Units",
    "UnitsOf",
    "Vae",
    "counter_values",
    "detect",
    "diffusers_files",
    "diffusers_names",
    "diffusers_places",
    "get_layout",
    "get_profile",
    "known_layouts",
    "moved",
    "norm_rows",
    "part_of",
    "profiles_for",
    "restricted",
    "spread",
    "supermerger_26_to_20",
    "symmetries_of",
    "weight_and_bias",
]
