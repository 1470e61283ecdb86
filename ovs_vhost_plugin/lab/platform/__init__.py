# SPDX-License-Identifier: Apache-2.0
"""The distribution: its packages, its mirrors, another release of it, versions."""
