"""Settings of the tests that try odd inputs: a few in the suite, and many in `make fuzz`."""

from hypothesis import HealthCheck, settings

LONG = settings.get_current_profile_name() == "fuzz"
"""`make fuzz`: other inputs each time. The suite's are always the same."""


def fuzzing(few: int, many: int) -> settings:
    """Make the settings of a test.

    Args:
        few: Number of inputs in the suite.
        many: Number of inputs in `make fuzz`.
    """
    return settings(
        deadline=None,
        derandomize=not LONG,
        database=None,
        max_examples=many if LONG else few,
        suppress_health_check=list(HealthCheck),
    )
