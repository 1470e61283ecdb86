# SPDX-License-Identifier: Apache-2.0
"""Unix sockets in directories of others: walked to, listened on and connected to, by a policy."""
