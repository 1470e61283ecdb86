# SPDX-License-Identifier: Apache-2.0
"""The compiled rings beside DPDK's, without a tap."""
