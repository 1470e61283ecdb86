# SPDX-License-Identifier: Apache-2.0
"""Counters for Prometheus: a process of its own, which faces the clients."""
