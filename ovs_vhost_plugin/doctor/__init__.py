# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost doctor`: what is wrong on this machine, and the command that mends it."""
