// The columns of the table of guests: what they show, how wide, and on which width of page.

import { formatted, visible } from "./format.js";
import { severityOf, stateOf } from "./parts.js";

// `from` is the least width of page that shows the column unasked; none: only when picked. `full` is what
// a whole bar behind it stands for. What a column means, and from when it hurts, is in the API.
export const COLUMNS = [
  { id: "state", title: "State", width: 112, from: 560 },
  { id: "name", title: "Name", width: 120, from: 0 },
  { id: "project", title: "Project", width: 100, from: 1100 },
  { id: "vcpus", title: "vCPUs", width: 60, unit: "count", from: 700 },
  { id: "cpu_ratio", title: "CPU", width: 78, unit: "ratio", from: 0, full: () => 1 },
  { id: "steal_ratio", title: "Steal", width: 98, unit: "ratio", from: 0, },
  { id: "steal_peak_ratio", title: "Worst second", width: 108, unit: "ratio", from: 820, },
  { id: "memory_used_bytes", title: "Memory", width: 92, unit: "bytes", from: 760, full: (row) => row.memory_max_bytes },
  { id: "memory_max_bytes", title: "of", width: 80, unit: "bytes", from: 1560 },
  { id: "memory_rss_bytes", title: "Resident", width: 88, unit: "bytes" },
  { id: "disk_read_bytes_per_second", title: "Disk read", width: 100, unit: "bytes_per_second", from: 1000 },
  { id: "disk_write_bytes_per_second", title: "Disk write", width: 100, unit: "bytes_per_second", from: 1000 },
  { id: "disk_iops", title: "IOPS", width: 76, unit: "count" },
  { id: "disk_latency_seconds", title: "Disk latency", width: 106, unit: "seconds", from: 700, },
  { id: "disk_latency_device", title: "Slowest disk", width: 104 },
  { id: "net_receive_bytes_per_second", title: "Net in", width: 100, unit: "bytes_per_second", from: 1200 },
  { id: "net_transmit_bytes_per_second", title: "Net out", width: 100, unit: "bytes_per_second", from: 1200 },
  { id: "pressure_cpu_ratio", title: "Pressure CPU", width: 112, unit: "ratio" },
  { id: "pressure_io_ratio", title: "Pressure I/O", width: 108, unit: "ratio", from: 1660 },
  { id: "pressure_memory_ratio", title: "Pressure mem.", width: 116, unit: "ratio" },
  { id: "partition", title: "Partition", width: 140 },
  { id: "age_seconds", title: "Age", width: 66, unit: "age", from: 1350 },
];

export function columnsOf(picked, width) {
  if (!picked) return COLUMNS.filter((each) => each.from <= width);
  return COLUMNS.filter((each) => each.id === "name" || picked.includes(each.id));
}

// What a cell shows: its text, a severity where it has a symbol, and the share of its bar.
export function content(column, row, { kinds, columns }) {
  const value = row[column.id];
  if (column.id === "state") {
    const [severity, text] = stateOf(row);
    return { text, severity };
  }
  if (!column.unit) return { text: visible(value ?? "") };
  const text = formatted(value, column.unit);
  const most = column.full?.(row);
  if (most) return { text, share: value ? Math.min(1, value / most) : 0 };
  return { text, severity: severityOf(kinds, columns.get(column.id)?.finding, value) };
}
