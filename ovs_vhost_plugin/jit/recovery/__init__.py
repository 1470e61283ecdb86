# SPDX-License-Identifier: Apache-2.0
"""What outlives a worker, and how a ring's kernels go on by it."""
