"""A name that series have already is no tag or label of the configuration."""

from typing import Any

import pytest

from virtstatd.sinks.http import Http
from virtstatd.sinks.influx import Influx
from virtstatd.sinks.influx_udp import InfluxUdp
from virtstatd.sinks.own_names import check_names
from virtstatd.sinks.remote_write import RemoteWrite


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["state"], "x: 'state' is what series have already"),
        (["vcpu"], "x: 'vcpu' is what series have already"),
        (["target-device"], "x: 'target-device' is what series have already"),
        (["le"], "x: 'le' is what series have already"),
        (["domain"], "x: 'domain' is what series have already"),
        (["kept"], "x: 'kept' is what series have already"),
        ([""], "x: '' is no name"),
        (["0a"], "x: '0a' is no name"),
        (["data-center", "data_center"], "x: 'data-center' and 'data_center' become the same"),
    ],
)
def test_names_that_are_taken(names: list[str], fault: str):
    """A name is refused if a series has it, as it is written or sent, and each only once."""
    with pytest.raises(ValueError, match=fault):
        check_names("x", names, ("kept",))


def test_names_that_are_free():
    """Any other name is taken."""
    check_names("x", ["rack", "data-center", "zone"])
    check_names("x", [])


@pytest.mark.parametrize(
    ("sink", "options", "option"),
    [
        (Influx, {}, "tags"),
        (InfluxUdp, {}, "tags"),
        (RemoteWrite, {}, "external_labels"),
        (Http, {"format": "influx"}, "tags"),
        (Http, {"format": "prometheus"}, "tags"),
    ],
)
def test_every_sink_with_tags_checks_them(sink: Any, options: dict[str, Any], option: str):
    """Every sink that adds names of the configuration to series refuses those that they have."""
    with pytest.raises(ValueError, match=f"^{option}: 'state' is what series have already"):
        sink(**options, **{option: {"state": "bavaria"}})
    assert getattr(sink(**options, **{option: {"rack": "r1"}}), option) == {"rack": "r1"}
