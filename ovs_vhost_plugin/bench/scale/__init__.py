# SPDX-License-Identifier: Apache-2.0
"""A thousand ports on one host."""
