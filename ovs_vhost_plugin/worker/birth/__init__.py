# SPDX-License-Identifier: Apache-2.0
"""The birth of a worker: forked from a warm process, then put into its sandbox."""
