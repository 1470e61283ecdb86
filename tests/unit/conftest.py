# SPDX-License-Identifier: Apache-2.0
"""Property tests are not timed: an example that is held up for a moment is not wrong.

Hypothesis does so by itself where it sees that it is in CI; here it is so everywhere.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")
