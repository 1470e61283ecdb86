# SPDX-License-Identifier: Apache-2.0
"""A worker gives its port to another one, while the guest runs."""
