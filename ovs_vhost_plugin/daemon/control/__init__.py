# SPDX-License-Identifier: Apache-2.0
"""The control socket's commands, and the data of their answers."""
