# SPDX-License-Identifier: Apache-2.0
"""How a ring goes on after another worker: by the journal, or by what the front-end kept."""
