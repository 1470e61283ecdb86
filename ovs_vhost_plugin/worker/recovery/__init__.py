# SPDX-License-Identifier: Apache-2.0
"""Resumes a ring after another worker: by the journal, or by the front-end's inflight region."""
