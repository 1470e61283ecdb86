# SPDX-License-Identifier: Apache-2.0
"""The vhost-user back-end: messages in, effects and replies out, and the shared memory."""
