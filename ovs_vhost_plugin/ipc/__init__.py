# SPDX-License-Identifier: Apache-2.0
"""Daemon-worker protocol: commands by a socket, reports by a pipe, vitals in shared memory."""
