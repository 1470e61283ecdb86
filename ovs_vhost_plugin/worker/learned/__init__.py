# SPDX-License-Identifier: Apache-2.0
"""The guest's stations: learned, reported, taken back, and moved with the guest."""
