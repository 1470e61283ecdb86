# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of its workers: birth, adoption, reports, limits and end."""
