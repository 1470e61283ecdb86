# SPDX-License-Identifier: Apache-2.0
"""The daemon's log: each module's, how often a line may repeat itself, and lines of JSON."""
