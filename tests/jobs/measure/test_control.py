"""Members that train nothing; what they cost the driver is measured in tests/jobs."""

from measure.control import _growth


def test_growth_is_the_exponent():
    rows = [{"members": n, "driver_seconds": 0.5 * n**1.5} for n in (4, 16)]
    assert _growth(rows) == 1.5
    assert _growth(rows[:1]) is None
