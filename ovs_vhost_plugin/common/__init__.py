# SPDX-License-Identifier: Apache-2.0
"""Shared by all packages: named errors, directories, escaped text, processes, token buckets."""
