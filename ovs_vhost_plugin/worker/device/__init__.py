# SPDX-License-Identifier: Apache-2.0
"""The device behind a session: memory, rings, queue pairs and what they stand on."""
