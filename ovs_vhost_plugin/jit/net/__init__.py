# SPDX-License-Identifier: Apache-2.0
"""Frames: guest to tap, tap to guest, offloads, and what is learned of them."""
