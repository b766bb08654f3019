"""Numbers for people."""

from collections.abc import Callable

import pytest

from virtstatd.commands.units import bytes_text, count_text, rate_text, ratio_text, seconds_text


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        (ratio_text, None, "-"),
        (ratio_text, 0, "0%"),
        (ratio_text, 0.004, "0.4%"),
        (ratio_text, 0.123, "12.3%"),
        (ratio_text, 0.9999, "100%"),
        (bytes_text, 1023, "1023B"),
        (bytes_text, 1536, "1.5KiB"),
        (bytes_text, 123 << 30, "123GiB"),
        (bytes_text, 8 << 60, "8192PiB"),
        (rate_text, None, "-"),
        (rate_text, 999.6, "1.0kB/s"),
        (rate_text, 12_345_678, "12.3MB/s"),
        (count_text, 0.42, "0.4"),
        (count_text, 950, "950"),
        (count_text, 1234, "1.2k"),
        (seconds_text, 0, "0s"),
        (seconds_text, 0.00005, "50us"),
        (seconds_text, 0.0034, "3.4ms"),
        (seconds_text, 5.0, "5s"),
        (seconds_text, 90, "2min"),
        (seconds_text, 7200, "2h"),
        (seconds_text, 200_000, "2d"),
    ],
)
def test_numbers_have_three_digits_and_a_unit(
    text: Callable[[float | None], str], value: float | None, shown: str
):
    """A number is short, says its unit, and what is not known is a dash and no zero."""
    assert text(value) == shown


def test_no_number_is_wider_than_its_column():
    """Of any size, up to those of the largest hosts, a number fits into eight cells."""
    for power in range(-9, 15):
        for first in (1, 9.99, 9.996, 99.96, 999.6):
            value = first * 10.0**power
            for text in (bytes_text, rate_text, count_text, seconds_text):
                if text is not seconds_text or value < 1e9:
                    assert len(text(value)) <= 8, (text, value)
