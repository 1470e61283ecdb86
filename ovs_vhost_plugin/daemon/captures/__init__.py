# SPDX-License-Identifier: Apache-2.0
"""Who captures ports, and what they are told."""
