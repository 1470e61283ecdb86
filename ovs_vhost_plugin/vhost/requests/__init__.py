# SPDX-License-Identifier: Apache-2.0
"""Handlers of the front-end's requests, a file for each concern of the specification."""
