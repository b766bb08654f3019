"""
The table: the handler and the priority of each number of `remote_protocol.x` that is answered.

A number that libvirt has and the simulator has not is refused like a function that the driver
lacks; a number that libvirt does not have gets libvirt's "unknown procedure".
"""

from __future__ import annotations

from virtstatd_simulator.answers import connect, cpus, domains, limits, stats
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
    14: Procedure("DOMAIN_GET_XML_DESC", domains.get_xml),
    15: Procedure("DOMAIN_GET_AUTOSTART", domains.get_autostart, urgent=True),
    16: Procedure("DOMAIN_GET_INFO", domains.get_info),
    19: Procedure("DOMAIN_GET_OS_TYPE", domains.get_os_type, urgent=True),
    22: Procedure("DOMAIN_LOOKUP_BY_ID", connect.lookup_by_id, urgent=True),
    23: Procedure("DOMAIN_LOOKUP_BY_NAME", connect.lookup_by_name, urgent=True),
    24: Procedure("DOMAIN_LOOKUP_BY_UUID", connect.lookup_by_uuid, urgent=True),
    25: Procedure("CONNECT_NUM_OF_DEFINED_DOMAINS", connect.count_inactive, urgent=True),
    56: Procedure("DOMAIN_GET_SCHEDULER_TYPE", limits.get_scheduler_type),
    57: Procedure("DOMAIN_GET_SCHEDULER_PARAMETERS", limits.get_scheduler_parameters),
    59: Procedure("CONNECT_GET_HOSTNAME", connect.get_hostname, urgent=True),
    60: Procedure("CONNECT_SUPPORTS_FEATURE", connect.supports_feature, urgent=True, early=True),
    66: Procedure("AUTH_LIST", connect.auth_list, urgent=True, early=True),
    150: Procedure("DOMAIN_IS_ACTIVE", domains.is_active, urgent=True),
    151: Procedure("DOMAIN_IS_PERSISTENT", domains.is_persistent, urgent=True),
    157: Procedure("CONNECT_GET_LIB_VERSION", connect.get_lib_version, urgent=True),
    163: Procedure("DOMAIN_GET_JOB_INFO", domains.get_job_info),
    183: Procedure("DOMAIN_HAS_MANAGED_SAVE_IMAGE", domains.has_managed_save),
    198: Procedure("DOMAIN_GET_MEMORY_PARAMETERS", limits.get_memory_parameters),
    206: Procedure("DOMAIN_GET_BLKIO_PARAMETERS", limits.get_blkio_parameters),
    212: Procedure("DOMAIN_GET_STATE", domains.get_state, urgent=True),
    223: Procedure("DOMAIN_GET_SCHEDULER_PARAMETERS_FLAGS", limits.get_scheduler_parameters),
    229: Procedure("DOMAIN_GET_CONTROL_INFO", domains.get_control_info, urgent=True),
    238: Procedure("DOMAIN_GET_BLOCK_JOB_INFO", domains.get_block_job_info),
    255: Procedure("DOMAIN_GET_NUMA_PARAMETERS", limits.get_numa_parameters),
    262: Procedure("DOMAIN_GET_CPU_STATS", cpus.get_cpu_stats),
    265: Procedure("DOMAIN_GET_METADATA", domains.get_metadata),
    273: Procedure("CONNECT_LIST_ALL_DOMAINS", connect.list_all_domains, urgent=True),
    281: Procedure("CONNECT_LIST_ALL_STORAGE_POOLS", connect.empty_list, urgent=True),
    283: Procedure("CONNECT_LIST_ALL_NETWORKS", connect.empty_list, urgent=True),
    293: Procedure("NODE_GET_CPU_MAP", cpus.get_cpu_map),
    298: Procedure("DOMAIN_GET_JOB_STATS", domains.get_job_stats),
    316: Procedure(
        "CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", connect.register_event, urgent=True
    ),
    317: Procedure(
        "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY", connect.deregister_event, urgent=True
    ),
    STATS: Procedure("CONNECT_GET_ALL_DOMAIN_STATS", stats.get_all_domain_stats),
    360: Procedure("CONNECT_REGISTER_CLOSE_CALLBACK", connect.nothing, urgent=True),
    361: Procedure("CONNECT_UNREGISTER_CLOSE_CALLBACK", connect.nothing, urgent=True),
    418: Procedure("DOMAIN_GET_GUEST_INFO", domains.get_guest_info, writes=True),
    426: Procedure("DOMAIN_GET_MESSAGES", domains.get_messages),
}
NUMBERS = {procedure.name: number for number, procedure in TABLE.items()}

_UNSUPPORTED = Procedure("unsupported", connect.unsupported)


def find(number: int) -> Procedure | None:
    """Look a procedure up; None for a number that libvirt does not know either."""
    if number in _EVENTS or not 0 < number <= LAST:
        return None
    return TABLE.get(number, _UNSUPPORTED)
