# SPDX-License-Identifier: Apache-2.0
"""Measurements of a run: captures, flows, clocks, evidence."""
