# SPDX-License-Identifier: Apache-2.0
"""Traffic, migrations and announcements through a switch, on our ports and the peers'."""
