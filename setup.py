"""The one thing pyproject.toml cannot say: C extensions that may fail to build.

Without them Stockpot gives the same bytes through torch and numpy, more slowly.
"""

import os

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"stockpot.methods.{name}",
            [f"src/stockpot/methods/{name}.c"],
            extra_compile_args=["/O2"] if os.name == "nt" else ["-O3", "-g0", "-std=c11", "-Wall"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
        for name in ("_linear", "_panels")
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
