# SPDX-License-Identifier: Apache-2.0
"""The device behind a session: memory, rings and queue pairs."""
