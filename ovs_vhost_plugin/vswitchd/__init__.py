# SPDX-License-Identifier: Apache-2.0
"""Questions to ovs-vswitchd over its control socket, and the reading of its answers."""
