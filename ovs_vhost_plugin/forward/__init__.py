# SPDX-License-Identifier: Apache-2.0
"""Frames that come for a guest after it has left: which port each goes to, and in whose name."""
