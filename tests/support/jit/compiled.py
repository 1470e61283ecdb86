# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels before several processes of tests each do so."""

import os
import subprocess
import sys

from support.checkout import TESTS, TOP

from ovs_vhost_plugin.jit import cache

X86_64_V2 = {"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": ""}
"""The environment of kernels that do not depend on this machine's processor."""

PLAIN_MEMCPY = {
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps="
    "-AVX512F,-AVX512VL,-AVX_Fast_Unaligned_Load,-SSSE3,-ERMS,-FSRM"
}
"""The environment in which libc copies by SSE2, as on any such processor (ld.so(8), ifunc).

Of 64, 32 or 16 bytes at a time it takes the widest that the processor has: of 6 KB that is 120
instructions more or less, on two machines of one model of which one has no AVX-512.
"""


def compile_all() -> None:
    """Fill an empty cache: in one process for all tests, in another for the instruction counts.

    What fails here fails in the tests again, and they say where.
    """
    kept = cache.of_sources(cache.find())
    if kept is None or kept.exists():
        return
    collect = [
        "-m",
        "pytest",
        "--collect-only",
        "-qq",
        "--numprocesses=0",
        os.fspath(TESTS / "unit"),
    ]
    both = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=TOP,
            env=os.environ | target,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for arguments, target in (
            (collect, {}),
            (["-c", "import bench.bench_instructions"], X86_64_V2),
        )
    ]
    for process in both:
        process.wait()
