# SPDX-License-Identifier: Apache-2.0
"""The journal and inflight regions that outlive a worker, and resuming a ring by them."""
