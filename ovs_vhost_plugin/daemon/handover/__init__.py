# SPDX-License-Identifier: Apache-2.0
"""Workers replaced by others while their guests run, as the daemon sees it."""
