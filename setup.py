"""Builds the native core, codesvc/_fastcsv.pyx; everything else stands in pyproject.toml.

Switches, from the environment:

CODESVC_BUILD_WERROR=1     the compiler's warnings are errors (`make lint` and CI; a user's newer compiler may
                           know warnings that we do not)
CODESVC_BUILD_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer, with debug information
CODESVC_BUILD_TRACE=1      line tracing, for coverage of the .pyx file
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup


def switch(name: str) -> bool:
    """Tell whether the environment sets the switch."""
    return os.environ.get(name, "0") not in ("", "0")


compile_args = ["-O3", "-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"]
link_args = []
macros = []
directives = {"language_level": 3, "embedsignature": True}

if switch("CODESVC_BUILD_WERROR"):
    compile_args.append("-Werror")
if switch("CODESVC_BUILD_SANITIZE"):
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    compile_args += [*sanitizers, "-g", "-O1", "-fno-omit-frame-pointer"]
    link_args += sanitizers
if switch("CODESVC_BUILD_TRACE"):
    directives["linetrace"] = True
    macros.append(("CYTHON_TRACE_NOGIL", "1"))

setup(
    ext_modules=cythonize(
        [
            Extension(
                "codesvc._fastcsv",
                ["codesvc/_fastcsv.pyx"],
                depends=sorted(str(header) for header in Path("codesvc").glob("_fastcsv_*.h")),
                extra_compile_args=compile_args,
                extra_link_args=link_args,
                define_macros=macros,
            )
        ],
        compiler_directives=directives,
    )
)
