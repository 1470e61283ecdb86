# SPDX-License-Identifier: Apache-2.0
"""Notes that outlive a worker, and how a ring's kernels resume by them."""
