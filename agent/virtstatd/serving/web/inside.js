// What a guest reports through its agent: its file systems, and what it is.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { formatted } from "./format.js";
import { judged, name, panel, table } from "./parts.js";

const MOST = 16; // of each kind: a guest may report anything

export function insideOf(model) {
  const all = model.guest.filesystems ?? [];
  const rows = facts(model.guest.guest_agent ?? {});
  return html`${all.length ? panel("File systems, as the guest reports", table(columns(model), all, "", "File systems")) : ""}
  ${rows.length ? panel("Inside, as the guest reports", description(rows)) : ""}`;
}

const columns = (model) => [
  { title: "Mounted at", cell: (row) => name(row.mountpoint) },
  { title: "Used", unit: "ratio", cell: (row) => judged(model, row.used_ratio, "ratio", "filesystem_full") },
  { title: "Of", id: "size_bytes", unit: "bytes" },
  { title: "Type", cell: (row) => name(row.type) },
  { title: "Device", cell: (row) => name(row.device) },
  { title: "Disks", cell: (row) => name(row.disks.join(", ")) },
];

function facts({ responsive, os, hostname, timezone, load, users, logins, addresses }) {
  const loads = (load ?? []).filter((each) => each !== null);
  return [
    ["Its agent", responsive === false ? "does not answer" : null],
    ["System", os?.os_pretty_name ?? os?.os_name],
    ["Kernel", os?.kernel_release],
    ["Host name", hostname],
    ["Time zone", timezone],
    ["Load", loads.map((each) => formatted(each, "count")).join(", ")],
    ["Users", users === null || users === undefined ? null : [String(users), ...(logins ?? []).slice(0, MOST).map(({ user }) => user)].join(" ")],
    ...(addresses ?? []).filter(({ address }) => address).slice(0, MOST).map((each) => [each.interface ?? "Address", `${each.address}/${each.prefix}`]),
  ].filter(([, value]) => value);
}

const description = (rows) => html`<dl class="description">${rows.map(([title, value]) => html`<dt>${name(title)}</dt><dd>${name(value)}</dd>`)}</dl>`;
