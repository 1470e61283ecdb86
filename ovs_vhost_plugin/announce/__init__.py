# SPDX-License-Identifier: Apache-2.0
"""Tells the network where a guest is now, and checks that the bridge has understood.

    request ──► announcer ──PacketOut──► channel ──► <rundir>/<bridge>.mgmt
                 ▲      └──AskTable──► switchd ──► ovs-vswitchd's control socket
                 └── barrier, error, MAC table

`service.AnnounceService` ties the parts and is all that the daemon uses.
"""
