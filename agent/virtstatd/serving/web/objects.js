// Storage pools and networks of the host: below its guests, if there are any.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { judged, mark, name, panel, table } from "./parts.js";

const poolState = (row) => {
  if (row.hangs) return mark("critical", "hangs");
  return mark(row.state === "running" ? "good" : "off", row.state ?? "unknown");
};

const pools = (model) => [
  { title: "Storage pool", cell: (row) => name(row.name) },
  { title: "State", cell: poolState },
  { title: "Type", cell: (row) => name(row.type) },
  { title: "Source", cell: (row) => name(row.source) },
  { title: "Size", id: "capacity_bytes", unit: "bytes" },
  { title: "Free", id: "available_bytes", unit: "bytes" },
  { title: "Free of it", unit: "ratio", cell: (row) => judged(model, row.available_ratio, "ratio", "pool_full") },
  { title: "Volumes", id: "volumes", unit: "count" },
  { title: "In use", id: "volumes_in_use", unit: "count" },
];

const networks = [
  { title: "Network", cell: (row) => name(row.name) },
  { title: "State", cell: (row) => mark(row.active ? "good" : "off", row.active ? "active" : "inactive") },
  { title: "Bridge", cell: (row) => name(row.bridge) },
  { title: "Forwards", cell: (row) => name(row.forward) },
  { title: "Ports", id: "ports", unit: "count" },
];

export function objectPanels(model) {
  const { storage_pools, networks: nets } = model.lists;
  return html`${storage_pools?.length ? panel("Storage pools", table(pools(model), storage_pools, "", "Storage pools"), "sizes of libvirt's last refresh") : ""}
  ${nets?.length ? panel("Networks", table(networks, nets, "", "Networks")) : ""}`;
}
