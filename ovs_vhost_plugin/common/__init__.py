# SPDX-License-Identifier: Apache-2.0
"""For all parts: named errors, directories, text of others, processes, token buckets."""
