"""The public surface, and what importing it costs."""

import subprocess
import sys

import stockpot.layouts


def test_public_names() -> None:
    assert stockpot.layouts.__all__ == [
        "LAYOUTS",
        "PROFILES",
        "SCHEDULER_FILE",
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
        "as_checkpoint",
        "UNet",
        "Vae",
        "counter_values",
        "detect",
        "diffusers_files",
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
        "weight_and_bias",
    ]
    assert all(hasattr(stockpot.layouts, name) for name in stockpot.layouts.__all__)


def test_import_loads_no_tensor_library() -> None:
    program = (
        "import sys, stockpot.layouts as layouts\n"
        "assert not {'torch', 'numpy', 'diffusers', 'yaml'} & set(sys.modules)\n"
        "assert all('specs' not in vars(layout) for layout in layouts.LAYOUTS.values())\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
