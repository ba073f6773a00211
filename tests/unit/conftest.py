"""Hypothesis profiles: a moderate number of examples by default, more with HYPOTHESIS_PROFILE=thorough."""

import os

from hypothesis import HealthCheck, Phase, settings

# Derandomized: an unchanged run gives the same result twice. The thorough profile explores.
settings.register_profile("normal", max_examples=200, stateful_step_count=40, derandomize=True, deadline=None)
settings.register_profile(
    "thorough",
    max_examples=3000,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),  # without Phase.explain, which takes too long
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))
