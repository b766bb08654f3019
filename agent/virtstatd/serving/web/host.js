// The host's view: what hurts, the host's charts, its guests and its partitions.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { Chart } from "./charts.js";
import { formatted } from "./format.js";
import { guestTable } from "./guests.js";
import { happened } from "./happened.js";
import { History } from "./history.js";
import { objectPanels } from "./objects.js";
import { findings, judged, meter, name, panel, table } from "./parts.js";
import { change } from "./url.js";

const NAMES = [
  "cpu.used_ratio",
  "cpu.guests_ratio",
  "cpu.steal_ratio",
  "memory.available_bytes",
  "memory.used_bytes",
  "pressure.cpu",
  "pressure.io",
  "pressure.memory",
  "disk.read_bytes_per_second",
  "disk.write_bytes_per_second",
  "network.receive_bytes_per_second",
  "network.transmit_bytes_per_second",
];

export class HostCharts {
  constructor() {
    this.history = new History(NAMES);
    this.total = 0;
    const lines = (group, ...all) => all.map(([id, title, tone]) => ({ name: `${group}.${id}`, title, tone }));
    this.charts = [
      new Chart({
        title: "CPU",
        unit: "ratio",
        top: () => 1,
        lines: lines("cpu", ["guests_ratio", "guests", 0], ["used_ratio", "all", 1], ["steal_ratio", "steal", 2]),
      }),
      new Chart({
        title: "Memory",
        unit: "bytes",
        top: () => this.total || 2 ** 30,
        lines: lines("memory", ["used_bytes", "used", 0], ["available_bytes", "available", 1]),
      }),
      new Chart({
        title: "Pressure",
        unit: "ratio",
        least: 0.05,
        lines: lines("pressure", ["cpu", "CPU", 0], ["io", "I/O", 1], ["memory", "memory", 2]),
      }),
      new Chart({
        title: "Disks",
        unit: "bytes_per_second",
        least: 1 << 20,
        lines: lines("disk", ["read_bytes_per_second", "read", 0], ["write_bytes_per_second", "write", 1]),
      }),
      new Chart({
        title: "Network",
        unit: "bytes_per_second",
        least: 1 << 17,
        lines: lines("network", ["receive_bytes_per_second", "in", 0], ["transmit_bytes_per_second", "out", 1]),
      }),
    ];
  }

  load(document) {
    this.total = document.memory?.total_bytes ?? 0;
    const history = document.history;
    if (history) {
      const available = history.series["memory.available_bytes"] ?? [];
      history.series["memory.used_bytes"] = available.map((each) => this.used(each));
    }
    this.history.load(history);
    this.add(document);
  }

  add(document) {
    this.total = document.memory?.total_bytes ?? this.total;
    const values = {};
    for (const each of NAMES) {
      const [group, key] = each.split(".");
      values[each] = document[group]?.[key] ?? null;
    }
    values["memory.used_bytes"] = this.used(values["memory.available_bytes"]);
    this.history.add(Date.parse(document.time) / 1000, values);
  }

  used(available) {
    return this.total && available !== null ? this.total - available : null;
  }

  update(minutes) {
    for (const each of this.charts) each.update(this.history, minutes);
  }
}

export function hostView(model) {
  const { host, charts, url } = model;
  if (!host) return html`<main class="view"><p class="empty">${model.live.state === "connecting" ? "Connecting…" : "No numbers yet."}</p></main>`;
  return html`<main class="view">
    <h1 class="hidden">Host</h1>
    ${panel("What hurts now", findings(model, model.findings))}
    <section class="panel" aria-label="Host">
      <h2>Host <small>${sizes(host)}</small> ${periods(url)}</h2>
      <div class="charts">${charts.host.charts.map((each) => each.frame)}</div>
    </section>
    ${guestTable(model)}
    ${objectPanels(model)}
    ${model.partitions.length ? panel("Partitions", partitions(model)) : ""}
    ${happened(model)}
  </main>`;
}

export function periods(url) {
  return html`<span class="switch" role="group" aria-label="Period of the charts">
    ${[15, 60].map(
      (minutes) => html`<button class="quiet" aria-pressed=${url.minutes === minutes} @click=${() => change(url, { minutes })}>
        ${minutes === 60 ? "1 h" : "15 min"}
      </button>`,
    )}
  </span>`;
}

function sizes(host) {
  const parts = [];
  if (host.cpu?.count) parts.push(`${host.cpu.count} CPUs`);
  if (host.memory?.total_bytes) parts.push(formatted(host.memory.total_bytes, "bytes"));
  return parts.join(", ");
}

const columns = (model) => [
  { title: "Partition", cell: (row) => html`<span class="depth-${Math.min(row.depth, 6)}">${row.depth ? html`<i aria-hidden="true">└ </i>` : ""}${name(row.depth ? row.path.split("/").at(-1) : row.path)}</span>` },
  { title: "Guests", id: "guests", unit: "count" },
  { title: "CPU", unit: "ratio", cell: (row) => meter(row.cpu_ratio, "ratio", row.cpu_limit_ratio ?? 1) },
  { title: "CPU limit", id: "cpu_limit_ratio", unit: "ratio" },
  { title: "Throttled", unit: "ratio", cell: (row) => judged(model, row.throttled_ratio, "ratio", "partition_limited") },
  { title: "Memory", unit: "bytes", cell: (row) => meter(row.memory_bytes, "bytes", row.memory_limit_bytes) },
  { title: "Memory limit", id: "memory_limit_bytes", unit: "bytes" },
  { title: "Pressure CPU", id: "pressure_cpu", unit: "ratio" },
  { title: "Pressure I/O", id: "pressure_io", unit: "ratio" },
  { title: "Pressure memory", id: "pressure_memory", unit: "ratio" },
];

function partitions(model) {
  return table(columns(model), model.partitions, "No partitions.", "Partitions");
}
