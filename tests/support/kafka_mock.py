"""
Brokers for a test: librdkafka's mock cluster, in a process of its own.

It prints where it listens, and obeys `down`, `up`, `refuse CODE` (every produce request), `accept`
and `rtt MILLISECONDS` on standard input, answering each with `ok`.
"""

import ctypes
import sys
from pathlib import Path

import confluent_kafka


BROKERS = 3
PARTITIONS = 4
PRODUCE = 0
ERRORS = 1000


def library() -> ctypes.CDLL:
    """Return the librdkafka that the wheel brings."""
    (path,) = Path(confluent_kafka.__file__).parents[1].glob("confluent_kafka.libs/librdkafka*.so*")
    loaded = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(loaded, name).restype = ctypes.c_void_p
    loaded.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return loaded


def main() -> None:
    """Run until standard input ends."""
    rd = library()
    text = ctypes.create_string_buffer(512)
    client = rd.rd_kafka_new(0, ctypes.c_void_p(rd.rd_kafka_conf_new()), text, len(text))
    cluster = ctypes.c_void_p(rd.rd_kafka_mock_cluster_new(ctypes.c_void_p(client), BROKERS))
    rd.rd_kafka_mock_topic_create(cluster, b"virtstatd", PARTITIONS, BROKERS)
    print(rd.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["down"]:
                for broker in range(1, BROKERS + 1):
                    rd.rd_kafka_mock_broker_set_down(cluster, broker)
            case ["up"]:
                for broker in range(1, BROKERS + 1):
                    rd.rd_kafka_mock_broker_set_up(cluster, broker)
            case ["rtt", milliseconds]:
                for broker in range(1, BROKERS + 1):
                    rd.rd_kafka_mock_broker_set_rtt(cluster, broker, int(milliseconds))
            case ["refuse", code]:
                codes = (ctypes.c_int * ERRORS)(*[int(code)] * ERRORS)
                rd.rd_kafka_mock_push_request_errors_array(
                    cluster, ctypes.c_int16(PRODUCE), ctypes.c_size_t(ERRORS), codes
                )
            case ["accept"]:
                rd.rd_kafka_mock_clear_request_errors(cluster, ctypes.c_int16(PRODUCE))
        print("ok", flush=True)


if __name__ == "__main__":
    main()
