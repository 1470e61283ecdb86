# SPDX-License-Identifier: Apache-2.0
"""The database: our rows are parsed into specs of ports, and status is written back."""
