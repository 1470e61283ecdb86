# SPDX-License-Identifier: Apache-2.0
"""A port with its tap: writev beside io_uring, and the whole port beside DPDK's."""
