# SPDX-License-Identifier: Apache-2.0
"""Traffic through many ports while everything around them breaks and heals: `make soak`."""
