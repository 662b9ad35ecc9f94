"""The one thing pyproject.toml cannot say: a C extension that may fail to build.

Without it Stockpot gives the same bytes through torch, more slowly.
"""

import os

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "stockpot.methods._linear",
            ["src/stockpot/methods/_linear.c"],
            extra_compile_args=["/O2"] if os.name == "nt" else ["-O3", "-g0", "-std=c11", "-Wall"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
