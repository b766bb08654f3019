// The charts of one guest: the guest as a whole, and one of its disks against its limits.

import { Chart } from "./charts.js";
import { History } from "./history.js";

const NAMES = [
  "cpu_ratio",
  "steal_ratio",
  "memory_used_bytes",
  "memory_cache_bytes",
  "memory_unused_bytes",
  "memory_other_bytes",
  "memory_rss_bytes",
  "disk_read_bytes_per_second",
  "disk_write_bytes_per_second",
  "disk_latency_seconds",
  "net_receive_bytes_per_second",
  "net_transmit_bytes_per_second",
];
const DISK_NAMES = [
  "read_bytes_per_second",
  "write_bytes_per_second",
  "both_bytes_per_second",
  "read_iops",
  "write_iops",
  "both_iops",
  "read_latency_seconds",
  "write_latency_seconds",
];

const line = (name, title, tone) => ({ name, title, tone });
const layer = (name, title) => ({ name, title, layer: true });

export class GuestCharts {
  constructor() {
    this.history = new History(NAMES);
    this.most = 0;
    this.disks = new DiskCharts();
    this.own = [
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
        lines: [
          layer("memory_used_bytes", "used"),
          layer("memory_cache_bytes", "cache"),
          layer("memory_unused_bytes", "unused"),
          layer("memory_other_bytes", "kernel"),
          line("memory_rss_bytes", "on the host", 1),
        ],
      }),
      new Chart({
        title: "All disks",
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

  get charts() {
    return [...this.own, ...this.disks.charts];
  }

  load(document) {
    const { series } = document.history;
    const current = series.memory_current_bytes ?? [];
    series.memory_other_bytes = current.map((_, at) => other((name) => series[name]?.[at] ?? null));
    this.history.load(document.history);
    this.disks.load(document.history);
    this.add(document);
  }

  add(document) {
    const row = document.guest;
    this.most = row.memory_max_bytes ?? this.most;
    const seconds = Date.parse(document.time) / 1000;
    this.history.add(seconds, { ...row, memory_other_bytes: other((name) => row[name] ?? null) });
    this.disks.add(seconds, document.disks);
  }

  update(minutes) {
    for (const each of this.own) each.update(this.history, minutes);
    this.disks.update(minutes);
  }

  destroy() {
    for (const each of this.charts) each.destroy();
  }
}

// What the guest has besides: its kernel's and the firmware's part.
function other(get) {
  const parts = ["used", "cache", "unused"].map((each) => get(`memory_${each}_bytes`));
  const current = get("memory_current_bytes");
  if (current === null || parts[0] === null) return null;
  return Math.max(0, current - parts.reduce((sum, each) => sum + (each ?? 0), 0));
}

// Of all disks there are histories, and charts of the one that is looked at.
class DiskCharts {
  constructor() {
    this.histories = new Map();
    this.step = 10;
    this.device = "";
    this.limits = {};
    const all = (suffix, names) => names.map(([id, title, tone]) => line(`${id}_${suffix}`, title, tone));
    const ways = [["read", "read", 0], ["write", "write", 1], ["both", "both", 3]];
    this.charts = [
      new Chart({
        title: "Rate",
        unit: "bytes_per_second",
        least: 1 << 14,
        lines: all("bytes_per_second", ways),
        limits: () => this.limited("bytes_per_second"),
      }),
      new Chart({
        title: "Requests",
        unit: "per_second",
        least: 10,
        lines: all("iops", ways),
        limits: () => this.limited("iops"),
      }),
      new Chart({
        title: "Latency",
        unit: "seconds",
        least: 0.001,
        lines: all("latency_seconds", ways.slice(0, 2)),
      }),
    ];
  }

  limited(suffix) {
    return [["total", "limit"], ["read", "limit of reads"], ["write", "limit of writes"]]
      .map(([way, title]) => ({ title, value: this.limits[`${way}_${suffix}`] }))
      .filter((each) => each.value);
  }

  load(history) {
    this.step = history.step_seconds;
    this.histories.clear();
    for (const [device, series] of Object.entries(history.disks ?? {})) {
      for (const suffix of ["bytes_per_second", "iops"]) {
        const written = series[`write_${suffix}`];
        series[`both_${suffix}`] = series[`read_${suffix}`].map((each, at) => sum(each, written[at]));
      }
      this.of(device).load({ ...history, series });
    }
  }

  add(seconds, disks) {
    for (const disk of disks) {
      this.of(disk.device).add(seconds, {
        ...disk,
        both_bytes_per_second: sum(disk.read_bytes_per_second, disk.write_bytes_per_second),
        both_iops: sum(disk.read_iops, disk.write_iops),
      });
    }
  }

  of(device) {
    if (!this.histories.has(device)) {
      const history = new History(DISK_NAMES);
      history.step = this.step;
      this.histories.set(device, history);
    }
    return this.histories.get(device);
  }

  look(disk) {
    this.device = disk.device;
    this.limits = disk.limits ?? {};
  }

  update(minutes) {
    const history = this.histories.get(this.device);
    if (history) for (const each of this.charts) each.update(history, minutes);
  }
}

const sum = (one, other) => (one === null || other === null ? null : one + other);
