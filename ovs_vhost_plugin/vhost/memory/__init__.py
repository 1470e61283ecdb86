# SPDX-License-Identifier: Apache-2.0
"""Memory shared with the front-end: guest memory, dirty log, in-flight region, IOTLB."""
