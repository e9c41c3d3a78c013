"""What is built besides Python: the short way in C (`fortdb/native`), where there is a C compiler.

Without one, installing goes on: the same requests then take the long way, in Python. Everything else
about the package is in pyproject.toml.
"""

from __future__ import annotations

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "fortdb.native._native",
            sorted(glob("fortdb/native/*.c")),
            depends=["fortdb/native/lane.h"],
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter"],
            optional=True,
        )
    ]
)
