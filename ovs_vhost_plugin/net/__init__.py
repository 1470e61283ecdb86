# SPDX-License-Identifier: Apache-2.0
"""Ethernet as a bridge's port sees it: VLAN tags and who carries which."""
