// The disks of a guest: one of them in charts, against its limits; all in a table; how long requests took.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { formatted, visible } from "./format.js";
import { judged, meter, name, panel, table } from "./parts.js";
import { change } from "./url.js";

export const histogramsOf = ({ disks }) => disks.filter((each) => Object.keys(each.histograms ?? {}).length).map(histograms);

export function disksOf(model) {
  const { guest, url, charts } = model;
  const { disks } = guest;
  const shown = disks.find((each) => each.device === url.device) ?? worst(disks);
  if (shown) charts.guest.disks.look(shown);
  return html`<section class="panel" aria-label="Disks">
    <h2>Disks ${shown ? picker(model, shown) : ""}</h2>
    ${shown ? html`<div class="charts three">${charts.guest.disks.charts.map((each) => each.frame)}</div>` : ""}
    ${table(columns(model), disks, "No disks.", "Disks", (row) => row.device === url.device)}
  </section>`;
}

// Unasked the disk that is nearest to its limit, or else the first.
function worst(disks) {
  return [...disks].sort((a, b) => (b.at_limit_ratio ?? 0) - (a.at_limit_ratio ?? 0))[0];
}

function picker({ guest, url }, shown) {
  if (guest.disks.length < 2) return html`<small>${name(shown.device)}</small>`;
  return html`<label class="picked"><span class="hidden">Disk of the charts</span>
    <select @change=${({ target }) => change(url, { device: target.value })}>
      ${guest.disks.map(({ device }) => html`<option value=${device} .selected=${device === shown.device}>${visible(device)}</option>`)}
    </select>
  </label>`;
}

const columns = (model) => [
  { title: "Disk", cell: (row) => html`<span title=${row.source ?? ""}>${name(row.device)}</span>` },
  { title: "Read", unit: "bytes_per_second", cell: (row) => limited(row, "read_bytes_per_second", "bytes_per_second") },
  { title: "Write", unit: "bytes_per_second", cell: (row) => limited(row, "write_bytes_per_second", "bytes_per_second") },
  { title: "Read IOPS", unit: "count", cell: (row) => limited(row, "read_iops", "count") },
  { title: "Write IOPS", unit: "count", cell: (row) => limited(row, "write_iops", "count") },
  { title: "Flushes", id: "flush_iops", unit: "per_second" },
  { title: "Read latency", unit: "seconds", cell: (row) => judged(model, row.read_latency_seconds, "seconds", "disk_latency") },
  { title: "Write latency", unit: "seconds", cell: (row) => judged(model, row.write_latency_seconds, "seconds", "disk_latency") },
  { title: "Flush latency", id: "flush_latency_seconds", unit: "seconds" },
  { title: "At its limit", unit: "ratio", cell: (row) => judged(model, row.at_limit_ratio, "ratio", "disk_limited") },
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

