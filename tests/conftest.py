"""One Hypothesis profile for every test: no deadline (machines differ), few examples, and in CI always the same ones."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("local", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
