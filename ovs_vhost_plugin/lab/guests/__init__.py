# SPDX-License-Identifier: Apache-2.0
"""Guests of several kinds, and the images they boot."""
