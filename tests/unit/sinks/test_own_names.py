"""Tags and labels of the configuration: names that are free and legal, with values."""

from functools import partial
from typing import Any

import pytest

from virtstatd.sinks.http import Http
from virtstatd.sinks.influx import Influx
from virtstatd.sinks.influx_udp import InfluxUdp
from virtstatd.sinks.otlp import Otlp
from virtstatd.sinks.own_names import check_labels
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
        ([" "], "x: ' ' is no name"),
        (["0a"], "x: '0a' is no name; begin it with a letter"),
        (["__name__"], "x: '__name__' begins with __, which the destination keeps for itself"),
        (["data-center", "data_center"], "x: 'data-center' and 'data_center' become the same"),
    ],
)
def test_names_that_are_taken(names: list[str], fault: str):
    """A name is refused if a series has it, as it is written or sent, and each only once."""
    with pytest.raises(ValueError, match=fault):
        check_labels("x", dict.fromkeys(names, "v"), ("kept",))


def test_names_that_are_free():
    """Any other name is taken."""
    check_labels("x", {"rack": "r1", "data-center": "ü", "zone": "a b", "_own": "1"})
    check_labels("x", {})


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


@pytest.mark.parametrize(
    ("sink", "options", "option"),
    [
        (Influx, {}, "tags"),
        (InfluxUdp, {}, "tags"),
        (RemoteWrite, {}, "external_labels"),
        (Http, {"format": "influx"}, "tags"),
        (Http, {"format": "prometheus"}, "tags"),
        (Http, {"format": "otlp-json"}, "tags"),
        (Otlp, {}, "resource_attributes"),
    ],
)
def test_every_label_has_a_value(sink: Any, options: dict[str, Any], option: str):
    """A label without a value, which receivers refuse or drop, is refused before anything runs."""
    for value in ("", " "):
        with pytest.raises(ValueError, match=f"^{option}: 'rack' has no value; give it one, or"):
            sink(**options, **{option: {"zone": "a", "rack": value}})
    with pytest.raises(ValueError, match=f"^{option}: '.*' is no name"):
        sink(**options, **{option: {"": "a"}})


@pytest.mark.parametrize("sink", [Influx, InfluxUdp])
def test_influx_keeps_what_begins_with_an_underscore(sink: Any):
    """InfluxDB has names of its own there: `_field`, `_measurement`."""
    for name in ("_field", "_own", "-own"):
        with pytest.raises(ValueError, match=r"^tags: .* begins with _, which the destination"):
            sink(tags={name: "v"})


@pytest.mark.parametrize(
    ("sink", "option"), [(Otlp, "resource_attributes"), (partial(Http, format="otlp-json"), "tags")]
)
def test_the_host_is_given_once(sink: Any, option: str):
    """Attributes may replace the host's name, but not beside the option `host`."""
    for name in ("host.name", "service.instance.id"):
        assert sink(**{option: {name: "n1"}})
        with pytest.raises(ValueError, match=f"^{option}: '{name}' is what host says already"):
            sink(**{option: {name: "n1"}}, host="n2")
