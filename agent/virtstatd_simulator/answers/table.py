"""
The table: which number of `remote_protocol.x` is answered by whom, and with what priority.

Numbers that libvirt has and the simulator has not are refused as a driver without that function
does; numbers that libvirt does not have get its own "unknown procedure".
"""

from __future__ import annotations

from virtstatd_simulator.answers import connect, cpus, domains, limits, node, stats
from virtstatd_simulator.answers.calls import Procedure


LAST = 443  # of libvirt 9.0
STATS = 344
# events go from the daemon to the client alone
_EVENTS = frozenset(
    {107, *range(169, 174), 195, 224, 241, 248, 268, 269, 270, 276, 292, 311, 315}
    | {*range(318, 334), 339, 346, 348, 354, 359, 362, 363, 367, 370, 373, 376, 377, 379}
    | {382, 383, 385, 423, 438}
)

TABLE: dict[int, Procedure] = {
    1: Procedure("CONNECT_OPEN", connect.open_, urgent=True, early=True),
    2: Procedure("CONNECT_CLOSE", connect.close, urgent=True, early=True),
    3: Procedure("CONNECT_GET_TYPE", connect.get_type, urgent=True),
    4: Procedure("CONNECT_GET_VERSION", connect.get_version, urgent=True),
    5: Procedure("CONNECT_GET_MAX_VCPUS", connect.get_max_vcpus, urgent=True),
    6: Procedure("NODE_GET_INFO", node.get_info, urgent=True),
    7: Procedure("CONNECT_GET_CAPABILITIES", connect.get_capabilities),
    9: Procedure("DOMAIN_CREATE", domains.create, writes=True),
    12: Procedure("DOMAIN_DESTROY", domains.destroy, urgent=True, writes=True),
    14: Procedure("DOMAIN_GET_XML_DESC", domains.get_xml),
    15: Procedure("DOMAIN_GET_AUTOSTART", domains.get_autostart, urgent=True),
    16: Procedure("DOMAIN_GET_INFO", domains.get_info),
    17: Procedure("DOMAIN_GET_MAX_MEMORY", domains.get_max_memory, urgent=True),
    18: Procedure("DOMAIN_GET_MAX_VCPUS", domains.get_vcpu_count, urgent=True),
    19: Procedure("DOMAIN_GET_OS_TYPE", domains.get_os_type, urgent=True),
    20: Procedure("DOMAIN_GET_VCPUS", cpus.get_vcpus, urgent=True),
    21: Procedure("CONNECT_LIST_DEFINED_DOMAINS", connect.list_defined_domains, urgent=True),
    22: Procedure("DOMAIN_LOOKUP_BY_ID", connect.lookup_by_id, urgent=True),
    23: Procedure("DOMAIN_LOOKUP_BY_NAME", connect.lookup_by_name, urgent=True),
    24: Procedure("DOMAIN_LOOKUP_BY_UUID", connect.lookup_by_uuid, urgent=True),
    25: Procedure("CONNECT_NUM_OF_DEFINED_DOMAINS", connect.num_of_defined_domains, urgent=True),
    27: Procedure("DOMAIN_REBOOT", domains.reboot, writes=True),
    28: Procedure("DOMAIN_RESUME", domains.resume, writes=True),
    34: Procedure("DOMAIN_SUSPEND", domains.suspend, writes=True),
    37: Procedure("CONNECT_LIST_DOMAINS", connect.list_domains, urgent=True),
    51: Procedure("CONNECT_NUM_OF_DOMAINS", connect.num_of_domains, urgent=True),
    56: Procedure("DOMAIN_GET_SCHEDULER_TYPE", domains.get_scheduler_type),
    57: Procedure("DOMAIN_GET_SCHEDULER_PARAMETERS", limits.get_scheduler_parameters),
    59: Procedure("CONNECT_GET_HOSTNAME", connect.get_hostname, urgent=True),
    60: Procedure("CONNECT_SUPPORTS_FEATURE", connect.supports_feature, urgent=True, early=True),
    64: Procedure("DOMAIN_BLOCK_STATS", limits.get_block_stats),
    65: Procedure("DOMAIN_INTERFACE_STATS", domains.interface_stats, urgent=True),
    66: Procedure("AUTH_LIST", connect.auth_list, urgent=True, early=True),
    101: Procedure("NODE_GET_CELLS_FREE_MEMORY", node.get_cells_free_memory, urgent=True),
    102: Procedure("NODE_GET_FREE_MEMORY", node.get_free_memory, urgent=True),
    110: Procedure("CONNECT_GET_URI", connect.get_uri, urgent=True),
    121: Procedure("DOMAIN_GET_SECURITY_LABEL", limits.get_security_label, urgent=True),
    122: Procedure("NODE_GET_SECURITY_MODEL", node.get_security_model, urgent=True),
    149: Procedure("CONNECT_IS_SECURE", connect.is_secure, urgent=True),
    150: Procedure("DOMAIN_IS_ACTIVE", domains.is_active, urgent=True),
    151: Procedure("DOMAIN_IS_PERSISTENT", domains.is_persistent, urgent=True),
    157: Procedure("CONNECT_GET_LIB_VERSION", connect.get_lib_version, urgent=True),
    159: Procedure("DOMAIN_MEMORY_STATS", domains.get_memory_stats),
    163: Procedure("DOMAIN_GET_JOB_INFO", domains.get_job_info),
    183: Procedure("DOMAIN_HAS_MANAGED_SAVE_IMAGE", domains.is_not),
    187: Procedure("DOMAIN_SNAPSHOT_NUM", domains.is_not, urgent=True),
    194: Procedure("DOMAIN_GET_BLOCK_INFO", limits.get_block_info),
    196: Procedure("DOMAIN_CREATE_WITH_FLAGS", domains.create_with_flags, writes=True),
    198: Procedure("DOMAIN_GET_MEMORY_PARAMETERS", limits.get_memory_parameters),
    200: Procedure("DOMAIN_GET_VCPUS_FLAGS", domains.get_vcpu_count),
    202: Procedure("DOMAIN_IS_UPDATED", domains.is_not, urgent=True),
    206: Procedure("DOMAIN_GET_BLKIO_PARAMETERS", limits.get_blkio_parameters),
    212: Procedure("DOMAIN_GET_STATE", domains.get_state, urgent=True),
    223: Procedure("DOMAIN_GET_SCHEDULER_PARAMETERS_FLAGS", limits.get_scheduler_parameters),
    227: Procedure("NODE_GET_CPU_STATS", node.get_cpu_stats, urgent=True),
    228: Procedure("NODE_GET_MEMORY_STATS", node.get_memory_stats, urgent=True),
    229: Procedure("DOMAIN_GET_CONTROL_INFO", domains.get_control_info, urgent=True),
    230: Procedure("DOMAIN_GET_VCPU_PIN_INFO", limits.get_vcpu_pins),
    234: Procedure("DOMAIN_DESTROY_FLAGS", domains.destroy, urgent=True, writes=True),
    238: Procedure("DOMAIN_GET_BLOCK_JOB_INFO", domains.get_block_job_info),
    243: Procedure("DOMAIN_BLOCK_STATS_FLAGS", limits.get_block_stats_flags),
    253: Procedure("DOMAIN_GET_BLOCK_IO_TUNE", limits.get_block_io_tune),
    255: Procedure("DOMAIN_GET_NUMA_PARAMETERS", limits.get_numa_parameters),
    257: Procedure("DOMAIN_GET_INTERFACE_PARAMETERS", limits.get_interface_parameters),
    262: Procedure("DOMAIN_GET_CPU_STATS", cpus.get_cpu_stats),
    263: Procedure("DOMAIN_GET_DISK_ERRORS", domains.has_none),
    264: Procedure("DOMAIN_SET_METADATA", domains.set_metadata, writes=True),
    265: Procedure("DOMAIN_GET_METADATA", domains.get_metadata),
    273: Procedure("CONNECT_LIST_ALL_DOMAINS", connect.list_all_domains, urgent=True),
    274: Procedure("DOMAIN_LIST_ALL_SNAPSHOTS", connect.empty_list, urgent=True),
    277: Procedure("DOMAIN_GET_HOSTNAME", domains.get_guest_agent, writes=True),
    278: Procedure("DOMAIN_GET_SECURITY_LABEL_LIST", domains.has_none, urgent=True),
    280: Procedure("DOMAIN_GET_EMULATOR_PIN_INFO", limits.get_emulator_pin),
    281: Procedure("CONNECT_LIST_ALL_STORAGE_POOLS", connect.empty_list, urgent=True),
    283: Procedure("CONNECT_LIST_ALL_NETWORKS", connect.empty_list, urgent=True),
    284: Procedure("CONNECT_LIST_ALL_INTERFACES", connect.empty_list, urgent=True),
    285: Procedure("CONNECT_LIST_ALL_NODE_DEVICES", connect.empty_list, urgent=True),
    286: Procedure("CONNECT_LIST_ALL_NWFILTERS", connect.empty_list, urgent=True),
    287: Procedure("CONNECT_LIST_ALL_SECRETS", connect.empty_list, urgent=True),
    293: Procedure("NODE_GET_CPU_MAP", node.get_cpu_map),
    298: Procedure("DOMAIN_GET_JOB_STATS", domains.get_job_stats),
    316: Procedure(
        "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", connect.register_event, urgent=True
    ),
    317: Procedure(
        "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", connect.deregister_event, urgent=True
    ),
    STATS: Procedure("CONNECT_GET_ALL_DOMAIN_STATS", stats.get_all_domain_stats),
    351: Procedure("DOMAIN_GET_IOTHREAD_INFO", limits.get_iothreads),
    360: Procedure("CONNECT_REGISTER_CLOSE_CALLBACK", connect.nothing, urgent=True),
    361: Procedure("CONNECT_UNREGISTER_CLOSE_CALLBACK", connect.nothing, urgent=True),
    365: Procedure("DOMAIN_GET_PERF_EVENTS", limits.get_perf_events),
    418: Procedure("DOMAIN_GET_GUEST_INFO", domains.get_guest_agent, writes=True),
    426: Procedure("DOMAIN_GET_MESSAGES", domains.has_no_messages),
}

_UNSUPPORTED = Procedure("unsupported", connect.unsupported)


def find(number: int) -> Procedure | None:
    """Look a procedure up; None for what libvirt does not know either."""
    if number in _EVENTS or not 0 < number <= LAST:
        return None
    return TABLE.get(number, _UNSUPPORTED)


def number_of(name: str) -> int:
    """Give the number of a procedure by its name; raises `KeyError` for others."""
    return {procedure.name: number for number, procedure in TABLE.items()}[name.upper()]
