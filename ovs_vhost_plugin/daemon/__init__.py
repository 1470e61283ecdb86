# SPDX-License-Identifier: Apache-2.0
"""The daemon: rows of the database made into taps and workers, and kept so.

options ──► main ──► loop ──► ovsdb, reconcile ──► ports ──► workers, tap
                      ├─────► connector ──► reach (front-ends' sockets)
                      ├─────► announcing, forwarding ──► announce
                      ├─────► reopening (taps that the switch does not hear)
                      └─────► commands (unixctl)
"""

from ovs_vhost_plugin.daemon.main import main

__all__ = ["main"]
