# SPDX-License-Identifier: Apache-2.0
"""The frames that are sent for a guest: announcements, and queries for its multicast groups."""
