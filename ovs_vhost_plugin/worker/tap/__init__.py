# SPDX-License-Identifier: Apache-2.0
"""The worker's end of its tap: its queues, and frames kept for a guest that comes or has left."""
