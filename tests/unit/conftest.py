"""How much chance the property tests get: a moderate share in every run, more with HYPOTHESIS_PROFILE=thorough."""

import os

from hypothesis import HealthCheck, Phase, settings

# Derandomized: a run that nobody changed gives the same answer twice; the thorough profile is the one that explores.
settings.register_profile("normal", max_examples=200, stateful_step_count=40, derandomize=True, deadline=None)
settings.register_profile(
    "thorough",
    max_examples=3000,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),  # to explain takes longer than to understand
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))
