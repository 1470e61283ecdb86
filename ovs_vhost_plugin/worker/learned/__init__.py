# SPDX-License-Identifier: Apache-2.0
"""What the guest was seen to use: learned, told, taken back, and moved with the guest."""
