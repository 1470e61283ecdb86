# SPDX-License-Identifier: Apache-2.0
"""An OpenFlow client for packet-outs: the messages, the conversation, the kept connection."""
