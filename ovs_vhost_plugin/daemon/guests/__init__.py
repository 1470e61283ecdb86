# SPDX-License-Identifier: Apache-2.0
"""Guests' places: guests are announced when they arrive, and followed when they leave."""
