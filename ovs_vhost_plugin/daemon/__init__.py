# SPDX-License-Identifier: Apache-2.0
"""The daemon: makes taps and workers for the database's rows, and keeps them so.

options ──► main ──► loop ──► ovsdb, reconcile ──► ports ──► workers, tap
                      ├─────► connector ──► reach (front-ends' sockets)
                      ├─────► announcing, forwarding ──► announce
                      ├─────► reopening (taps that the switch does not have open)
                      └─────► commands (unixctl)
"""

from ovs_vhost_plugin.daemon.main import main

__all__ = ["main"]
