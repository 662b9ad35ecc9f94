"""The public surface, and what importing it costs."""

import subprocess
import sys


def test_import_loads_no_tensor_library() -> None:
    program = (
        "import sys, stockpot.layouts as layouts\n"
        "assert not {'torch', 'numpy', 'diffusers', 'yaml'} & set(sys.modules)\n"
        "assert all('specs' not in vars(layout) for layout in layouts.LAYOUTS.values())\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
