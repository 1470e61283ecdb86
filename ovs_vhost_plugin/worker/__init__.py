# SPDX-License-Identifier: Apache-2.0
"""A port's process: it wires the vhost-user session, guest memory, rings and tap together."""
