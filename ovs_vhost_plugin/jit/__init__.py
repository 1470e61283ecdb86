# SPDX-License-Identifier: Apache-2.0
"""The compiled code: kernels, which are functions over arrays, and the loop that runs them.

Importing `loop` compiles all kernels, or loads them from numba's cache on disk.
"""
