# SPDX-License-Identifier: Apache-2.0
"""Private hosts and the networks between them."""
