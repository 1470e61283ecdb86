# SPDX-License-Identifier: Apache-2.0
"""Whom to announce and when: by reports of workers, by rows, by the bridge's MAC table."""
