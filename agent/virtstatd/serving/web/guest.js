// One guest: its vCPUs, memory, disks and NICs, what happened to it, and what it is.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { Chart } from "./charts.js";
import { formatted, moment, NONE, span } from "./format.js";
import { History } from "./history.js";
import { periods } from "./host.js";
import { findings, mark, meter, name, panel, state, table } from "./parts.js";
import { link } from "./url.js";

const NAMES = [
  "cpu_ratio",
  "steal_ratio",
  "memory_used_bytes",
  "disk_read_bytes_per_second",
  "disk_write_bytes_per_second",
  "disk_latency_seconds",
  "net_receive_bytes_per_second",
  "net_transmit_bytes_per_second",
];
const VCPUS = 64; // of more, those with the most steal are shown

const line = (name, title, tone) => ({ name, title, tone });

export class GuestCharts {
  constructor() {
    this.history = new History(NAMES);
    this.most = 0;
    this.charts = [
      new Chart({
        title: "CPU",
        unit: "ratio",
        top: () => 1,
        lines: [line("cpu_ratio", "run", 0), line("steal_ratio", "steal", 2)],
      }),
      new Chart({
        title: "Memory",
        unit: "bytes",
        top: () => this.most || 2 ** 30,
        lines: [line("memory_used_bytes", "used", 0)],
      }),
      new Chart({
        title: "Disks",
        unit: "bytes_per_second",
        least: 1 << 17,
        lines: [line("disk_read_bytes_per_second", "read", 0), line("disk_write_bytes_per_second", "write", 1)],
      }),
      new Chart({
        title: "Disk latency",
        unit: "seconds",
        least: 0.001,
        lines: [line("disk_latency_seconds", "worst disk", 0)],
      }),
      new Chart({
        title: "Network",
        unit: "bytes_per_second",
        least: 1 << 14,
        lines: [line("net_receive_bytes_per_second", "in", 0), line("net_transmit_bytes_per_second", "out", 1)],
      }),
    ];
  }

  load(document) {
    this.history.load(document.history);
    this.add(document);
  }

  add(document) {
    this.most = document.guest.memory_max_bytes ?? this.most;
    this.history.add(Date.parse(document.time) / 1000, document.guest);
  }

  update(minutes) {
    for (const each of this.charts) each.update(this.history, minutes);
  }

  destroy() {
    for (const each of this.charts) each.destroy();
  }
}

export function guestView(model) {
  const { guest, charts, url } = model;
  const back = html`<a class="back" href=${link(url, { view: "host" })}><span aria-hidden="true">←</span> All guests</a>`;
  if (!guest) return html`<main class="view">${back}<p class="empty">${model.guestFault || "Loading…"}</p></main>`;
  const row = guest.guest;
  return html`<main class="view">
    ${back}
    <section class="panel" aria-label="Guest">
      <h1>${name(row.name)} ${state(row)}</h1>
      <dl class="facts-list">${facts(guest).map(([title, value]) => html`<div><dt>${title}</dt><dd>${value}</dd></div>`)}</dl>
    </section>
    ${guest.findings.length ? panel("What hurts now", findings(model, guest.findings, { all: true })) : ""}
    <section class="panel" aria-label="The last hour">
      <h2>${url.minutes === 60 ? "The last hour" : "The last 15 minutes"} ${periods(url)}</h2>
      <div class="charts">${charts.guest.charts.map((each) => each.frame)}</div>
    </section>
    <div class="columns">
      ${panel("vCPUs", html`<div class="short">${vcpus(guest.vcpus)}</div>`, guest.vcpus.length > VCPUS ? `the ${VCPUS} of ${guest.vcpus.length} with the most steal` : "")}
      ${panel("Memory", memory(guest.memory))}
    </div>
    ${panel("Disks", table(DISKS, guest.disks, "No disks.", "Disks", (row) => row.device === url.device))}
    ${guest.disks.filter((each) => Object.keys(each.histograms ?? {}).length).map(histograms)}
    ${panel("NICs", table(NICS, guest.nics, "No NICs.", "NICs", (row) => row.device === url.device))}
    <div class="columns">
      ${panel("What happened", events(guest.events))}
      ${panel("Description", description(guest.description))}
    </div>
  </main>`;
}

function facts({ guest, incarnation }) {
  return [
    ["Project", guest.project ? name(guest.project) : NONE],
    ["Partition", guest.partition ? name(guest.partition) : NONE],
    ["Runs since", moment(incarnation?.since)],
    ["QEMU process", incarnation?.pid ?? NONE],
    ["Numbers are", guest.age_seconds === null ? NONE : `${span(guest.age_seconds)} old`],
    ["UUID", html`<code>${guest.uuid}</code>`],
  ];
}

const VCPU = [
  { title: "vCPU", cell: (row) => name(row.vcpu) },
  { title: "Run", unit: "ratio", cell: (row) => meter(row.cpu_ratio, "ratio", 1) },
  { title: "Steal", unit: "ratio", cell: (row) => judged(row.steal_ratio, "ratio", 0.1) },
  { title: "Wait", id: "wait_ratio", unit: "ratio" },
];

function vcpus(all) {
  const worst = (a, b) => (b.steal_ratio ?? -1) - (a.steal_ratio ?? -1);
  const shown = all.length > VCPUS ? [...all].sort(worst).slice(0, VCPUS) : all;
  return table(VCPU, shown, "Nothing is known of its vCPUs.", "vCPUs");
}

function judged(value, unit, threshold) {
  const text = formatted(value, unit);
  return value >= threshold ? mark("warning", text) : text;
}

const MEMORY = [
  ["used_bytes", "Used", "bytes"],
  ["cache_bytes", "Cache", "bytes"],
  ["available_bytes", "The guest sees", "bytes"],
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
  return table(
    [
      { title: "Memory", cell: (row) => row.title },
      { title: "Now", unit: "bytes", cell: (row) => meter(row.value, row.unit, row.top) },
    ],
    rows,
    "Nothing is known of its memory.",
    "Memory",
  );
}

const DISKS = [
  { title: "Disk", cell: (row) => html`<span title=${row.source ?? ""}>${name(row.device)}</span>` },
  { title: "Read", unit: "bytes_per_second", cell: (row) => limited(row, "read_bytes_per_second", "bytes_per_second") },
  { title: "Write", unit: "bytes_per_second", cell: (row) => limited(row, "write_bytes_per_second", "bytes_per_second") },
  { title: "Read IOPS", unit: "count", cell: (row) => limited(row, "read_iops", "count") },
  { title: "Write IOPS", unit: "count", cell: (row) => limited(row, "write_iops", "count") },
  { title: "Flushes", id: "flush_iops", unit: "per_second" },
  { title: "Read latency", unit: "seconds", cell: (row) => judged(row.read_latency_seconds, "seconds", 0.05) },
  { title: "Write latency", unit: "seconds", cell: (row) => judged(row.write_latency_seconds, "seconds", 0.05) },
  { title: "Flush latency", id: "flush_latency_seconds", unit: "seconds" },
  { title: "At its limit", unit: "ratio", cell: (row) => judged(row.at_limit_ratio, "ratio", 0.9) },
  { title: "Limits", cell: (row) => limits(row.limits) },
  { title: "Size", id: "capacity_bytes", unit: "bytes" },
  { title: "Allocated", unit: "bytes", cell: (row) => meter(row.allocation_bytes, "bytes", row.capacity_bytes) },
  { title: "Errors", id: "errors_per_second", unit: "per_second" },
];

function limited(row, id, unit) {
  return meter(row[id], unit, row.limits?.[id] ?? row.limits?.[id.replace(/^(read|write)/, "total")]);
}

function limits(all) {
  const found = Object.entries(all ?? {}).filter(([, value]) => value);
  if (!found.length) return "none";
  const texts = found.map(([id, value], index) => {
    const [kind, ...what] = id.split("_");
    const text = formatted(value, what.join("_") === "bytes_per_second" ? "bytes_per_second" : "count");
    return html`${index ? ", " : ""}<span class="limit">${visibleKind(kind)} ${text}${what[0] === "iops" ? " IOPS" : ""}</span>`;
  });
  return html`<span>${texts}</span>`;
}

const visibleKind = (kind) => ({ total: "both" })[kind] ?? kind;

const NICS = [
  { title: "NIC", cell: (row) => name(row.device) },
  { title: "In", id: "receive_bytes_per_second", unit: "bytes_per_second" },
  { title: "Out", id: "transmit_bytes_per_second", unit: "bytes_per_second" },
  { title: "Packets in", id: "receive_packets_per_second", unit: "per_second" },
  { title: "Packets out", id: "transmit_packets_per_second", unit: "per_second" },
  { title: "Drops in", unit: "per_second", cell: (row) => some(row.receive_drops_per_second) },
  { title: "Drops out", unit: "per_second", cell: (row) => some(row.transmit_drops_per_second) },
  { title: "Errors in", unit: "per_second", cell: (row) => some(row.receive_errors_per_second) },
  { title: "Errors out", unit: "per_second", cell: (row) => some(row.transmit_errors_per_second) },
];

const some = (value) => (value > 0 ? mark("warning", formatted(value, "per_second")) : formatted(value, "per_second"));

// How long requests took: a bar for each bucket, with its number; the API counts up to each edge.
function histograms(disk) {
  return panel(
    `Latency of ${disk.device}`,
    html`<div class="histograms">
      ${Object.entries(disk.histograms).map(([kind, buckets]) => {
        const counts = buckets.map((each, index) => each.count - (buckets[index - 1]?.count ?? 0));
        const most = Math.max(1, ...counts);
        return html`<table class="plain histogram">
          <caption>${kind}</caption>
          <thead><tr><th scope="col">Up to</th><th scope="col" class="number">Requests</th></tr></thead>
          <tbody>
            ${buckets.map(
              (each, index) => html`<tr>
                <th scope="row">${each.le === null ? "more" : formatted(each.le, "seconds")}</th>
                <td class="number">${meter(counts[index], "count", most)}</td>
              </tr>`,
            )}
          </tbody>
        </table>`;
      })}
    </div>`,
  );
}

function events(all) {
  return table(
    [
      { title: "Time", cell: (row) => moment(row.time) },
      { title: "Event", cell: (row) => html`<span class="prose">${name(row.text || row.event)}</span>` },
    ],
    [...all].sort((a, b) => Date.parse(b.time) - Date.parse(a.time)).slice(0, 50),
    "Nothing since the agent began.",
    "What happened",
  );
}

function description(all) {
  const entries = Object.entries(all ?? {}).filter(([, value]) => value !== null && value !== "");
  if (!entries.length) return html`<p class="empty">Nothing is known.</p>`;
  return html`<dl class="description">
    ${entries.slice(0, 60).map(([title, value]) => html`<dt>${name(title)}</dt><dd>${name(value)}</dd>`)}
  </dl>`;
}
