# SPDX-License-Identifier: Apache-2.0
"""The daemon's care of taps: other holders, the host's own stack, a switch that has to reopen."""
