# SPDX-License-Identifier: Apache-2.0
"""The driver's side, compiled: a guest whose network stack is Linux's own, behind a tap."""
