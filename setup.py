"""The one thing pyproject.toml cannot say: C extensions that may fail to build.

Without them Stockpot gives the same bytes through torch and numpy, more slowly.
"""

import os

from setuptools import Extension, setup

FOLDER = "src/stockpot/methods"
PARTS = {"_linear": ["_linear"], "_panels": ["_panels", "_feeds", "_gram", "_ranks"]}
# Compilers may fuse a product and a sum where they are not told otherwise: other bytes.
FLAGS = ["-O3", "-g0", "-std=c11", "-Wall", "-ffp-contract=off"]

setup(
    ext_modules=[
        Extension(
            f"stockpot.methods.{name}",
            [f"{FOLDER}/{part}.c" for part in parts],
            depends=[f"{FOLDER}/_floats.h", f"{FOLDER}/_feeds.h"],
            extra_compile_args=["/O2", "/std:c11", "/fp:precise"] if os.name == "nt" else FLAGS,
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
        for name, parts in PARTS.items()
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
