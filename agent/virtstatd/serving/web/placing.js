// Where a guest is on its host: CPUs, NUMA nodes, storages and networks.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { formatted } from "./format.js";
import { name, panel } from "./parts.js";

const MOST = 16; // of each kind, so that a large guest does not fill the page

export function placeOf({ vcpus, memory, disks, nics }) {
  const rows = [
    ...cpus(vcpus),
    ...some(memory.numa_nodes, (each) => [`Memory on node ${each.node}`, formatted(each.bytes, "bytes")]),
    ...(memory.huge_pages_bytes ? [["Memory in huge pages", formatted(memory.huge_pages_bytes, "bytes")]] : []),
    ...some(disks.filter((each) => each.storage || each.error), (each) => [`Disk ${each.device}`, disk(each)]),
    ...some(nics.filter((each) => each.source ?? each.mac_address), (each) => [`NIC ${each.device}`, nic(each)]),
  ];
  if (!rows.length) return "";
  return panel("Where it is", html`<dl class="description">${rows.map(([title, text]) => html`<dt>${name(title)}</dt><dd>${name(text)}</dd>`)}</dl>`);
}

// vCPUs that may run on the same CPUs are one row.
function cpus(all) {
  const groups = new Map();
  for (const each of all.filter(({ affinity }) => affinity)) groups.set(each.affinity, [...(groups.get(each.affinity) ?? []), each]);
  return some([...groups], ([affinity, several]) => {
    const now = [...new Set(several.map((each) => each.current_cpu))].filter((cpu) => cpu !== null).sort((a, b) => a - b);
    const who = several.length === all.length ? "All vCPUs" : few(several.map(({ vcpu }) => vcpu), "vCPU ");
    return [who, `may run on CPUs ${affinity}, ran last on ${few(now)}`];
  });
}

const disk = ({ storage_type, storage, error }) => [storage && `${storage_type} ${storage}`, error && `in error: ${error}`].filter(Boolean).join(", ");

function nic({ source, source_type, mac_address, model, vlan, limits }) {
  const ways = ["receive", "transmit"].map((way) => limits?.[`${way}_average_bytes_per_second`]);
  const most = ways.map((value, at) => value && `${["in", "out"][at]} at most ${formatted(value, "bytes_per_second")}`);
  return [source && `${source_type} ${source}`, vlan && `VLAN ${vlan}`, mac_address, model, ...most].filter(Boolean).join(", ");
}

const some = (all, row) => (all ?? []).slice(0, MOST).map(row);
const few = (all, word = "") => word + all.slice(0, MOST).join(", ") + (all.length > MOST ? ", …" : "");
