# SPDX-License-Identifier: Apache-2.0
"""The daemon's care of taps: who else holds one, the host's own stack, a switch that is deaf."""
