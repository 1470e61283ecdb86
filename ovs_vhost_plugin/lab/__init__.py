# SPDX-License-Identifier: Apache-2.0
"""Private hosts on this machine: namespaces, switches of their own, real guests, flows.

The demo and the tests are built on it.  The lab does not touch the machine's own network, Open
vSwitch or database, and everything it makes is gone when its context ends.
"""
