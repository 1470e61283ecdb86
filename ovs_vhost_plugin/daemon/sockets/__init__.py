# SPDX-License-Identifier: Apache-2.0
"""Unix sockets in others' directories: found, listened on and connected to, by a policy."""
