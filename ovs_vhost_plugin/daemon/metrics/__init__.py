# SPDX-License-Identifier: Apache-2.0
"""The daemon's part of the metrics: when they are served, where, and their values."""
