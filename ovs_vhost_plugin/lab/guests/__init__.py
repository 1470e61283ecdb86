# SPDX-License-Identifier: Apache-2.0
"""Guests of several kinds, and what they boot."""
