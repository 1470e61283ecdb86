# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost bench`: ours beside the peers that are installed, on private hosts."""
