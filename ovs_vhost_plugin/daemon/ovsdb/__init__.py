# SPDX-License-Identifier: Apache-2.0
"""The database: rows that are ours turned into specs of ports, and status written back."""
