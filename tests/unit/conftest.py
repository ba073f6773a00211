"""Hypothesis profiles: a moderate number of examples by default, more with HYPOTHESIS_PROFILE=thorough."""

import os

from hypothesis import HealthCheck, Phase, settings

# Derandomized: two runs of the same code have the same result. The thorough profile explores new examples.
settings.register_profile("normal", max_examples=200, stateful_step_count=40, derandomize=True, deadline=None)
settings.register_profile(
    "thorough",
    max_examples=3000,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),  # without Phase.explain, which is slow
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))
