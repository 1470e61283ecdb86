# SPDX-License-Identifier: Apache-2.0
"""Fds that a peer passed: what each is, and closing what may take its time."""
