# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost top`: the ports and their rates, live."""
