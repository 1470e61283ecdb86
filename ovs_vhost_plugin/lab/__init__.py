# SPDX-License-Identifier: Apache-2.0
"""Private hosts on this machine: namespaces, switches of their own, real guests, flows.

The demo and the tests stand on it.  Nothing of the machine's own network, Open vSwitch or
database is touched, and everything made here is gone when its context ends.
"""
