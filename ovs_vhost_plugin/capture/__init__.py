# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost capture`: what crosses a port's rings, as pcapng."""
