# SPDX-License-Identifier: Apache-2.0
"""Fds that a peer passed: their kinds, and closing them without waiting."""
