# SPDX-License-Identifier: Apache-2.0
"""A guest at native speed: a compiled driver between a port and a network namespace's own tap."""
