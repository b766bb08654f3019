// One guest: its vCPUs, memory, disks and NICs, what happened to it, and what it is.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { disksOf, histogramsOf } from "./disks.js";
import { formatted, moment, NONE, span } from "./format.js";
import { periods } from "./host.js";
import { insideOf } from "./inside.js";
import { findings, mark, meter, name, panel, severityOf, state, table } from "./parts.js";
import { placeOf } from "./placing.js";
import { link } from "./url.js";
import { FEW, vcpusOf } from "./vcpus.js";

export function guestView(model) {
  const { guest, charts, url } = model;
  const back = html`<a class="back" href=${link(url, { view: "host" })}><span aria-hidden="true">←</span> All guests</a>`;
  if (!guest) return html`<main class="view">${back}<p class="empty">${model.guestFault || "Loading…"}</p></main>`;
  const row = guest.guest;
  const few = guest.vcpus.length <= FEW;
  return html`<main class="view">
    ${back}
    <section class="panel" aria-label="Guest">
      <h1>${name(row.name)} ${state(row)}</h1>
      <dl class="facts-list">${facts(guest).map(([title, value]) => html`<div><dt>${title}</dt><dd>${value}</dd></div>`)}</dl>
    </section>
    ${guest.findings.length ? panel("What hurts now", findings(model, guest.findings, { all: true })) : ""}
    <section class="panel" aria-label="The last hour">
      <h2>${url.minutes === 60 ? "The last hour" : "The last 15 minutes"} ${periods(url)}</h2>
      <div class="charts">${charts.guest.own.map((each) => each.frame)}</div>
    </section>
    ${few ? html`<div class="columns">${vcpusOf(model)} ${memory(guest.memory)}</div>` : vcpusOf(model)}
    ${disksOf(model)}
    ${panel("NICs", table(nics(model), guest.nics, "No NICs.", "NICs", (row) => row.device === url.device))}
    <div class="columns">
      ${few ? "" : memory(guest.memory)} ${histogramsOf(guest)} ${insideOf(model)}
      ${panel("What happened", events(guest.events))}
      ${placeOf(guest)} ${panel("Description", description(guest.description))}
    </div>
  </main>`;
}

function facts({ guest, incarnation }) {
  return [
    ["Project", guest.project ? name(guest.project) : NONE],
    ["Partition", guest.partition ? name(guest.partition) : NONE],
    ["Runs since", moment(incarnation?.started ?? incarnation?.since)],
    ["QEMU process", incarnation?.pid ?? NONE],
    ["Numbers are", guest.age_seconds === null ? NONE : `${span(guest.age_seconds)} old`],
    ["UUID", html`<code>${guest.uuid}</code>`],
  ];
}

const MEMORY = [
  ["used_bytes", "Used", "bytes"],
  ["cache_bytes", "Cache", "bytes"],
  ["available_bytes", "Seen by the guest", "bytes"],
  ["unused_bytes", "Unused", "bytes"],
  ["usable_bytes", "Usable", "bytes"],
  ["current_bytes", "Balloon", "bytes"],
  ["max_bytes", "At most", "bytes"],
  ["rss_bytes", "Resident on the host", "bytes"],
  ["swap_in_bytes_per_second", "Swap in", "bytes_per_second"],
  ["swap_out_bytes_per_second", "Swap out", "bytes_per_second"],
];

function memory(all) {
  const most = all.max_bytes;
  const rows = MEMORY.map(([id, title, unit]) => ({ title, value: all[id], unit, top: unit === "bytes" ? most : 0 }));
  const numbers = table(
    [
      { title: "Memory", cell: (row) => row.title },
      { title: "Now", unit: "bytes", cell: (row) => meter(row.value, row.unit, row.top) },
    ],
    rows,
    "No numbers of its memory.",
    "Memory",
  );
  return panel("Memory", numbers);
}

const nics = ({ kinds }) => [
  { title: "NIC", cell: (row) => name(row.device) },
  { title: "In", id: "receive_bytes_per_second", unit: "bytes_per_second" },
  { title: "Out", id: "transmit_bytes_per_second", unit: "bytes_per_second" },
  { title: "Packets in", id: "receive_packets_per_second", unit: "per_second" },
  { title: "Packets out", id: "transmit_packets_per_second", unit: "per_second" },
  { title: "Drops in", unit: "per_second", cell: (row) => some(row.receive_drops_per_second, severityOf(kinds, "nic_drops", row.receive_drops_per_second)) },
  { title: "Drops out", unit: "per_second", cell: (row) => some(row.transmit_drops_per_second, severityOf(kinds, "nic_drops", row.transmit_drops_per_second)) },
  { title: "Errors in", unit: "per_second", cell: (row) => some(row.receive_errors_per_second, row.receive_errors_per_second > 0) },
  { title: "Errors out", unit: "per_second", cell: (row) => some(row.transmit_errors_per_second, row.transmit_errors_per_second > 0) },
];

const some = (value, hurts) => (hurts ? mark("warning", formatted(value, "per_second")) : formatted(value, "per_second"));

function events(all) {
  return table(
    [
      { title: "Time", cell: (row) => moment(row.time) },
      { title: "Event", cell: (row) => html`<span class="prose">${name(row.text || row.event)}</span>` },
    ],
    [...all].sort((a, b) => Date.parse(b.time) - Date.parse(a.time)).slice(0, 50),
    "Nothing since the agent started.",
    "What happened",
  );
}

function description(all) {
  const entries = Object.entries(all ?? {}).filter(([, value]) => value !== null && value !== "");
  if (!entries.length) return html`<p class="empty">No description.</p>`;
  return html`<dl class="description">
    ${entries.slice(0, 60).map(([title, value]) => html`<dt>${name(title)}</dt><dd>${name(value)}</dd>`)}
  </dl>`;
}
