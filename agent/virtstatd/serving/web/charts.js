// A chart: title, present values, the lines, and a table in their place for who cannot see them.

import { html, render } from "./vendor/lit-html-3.3.3/lit-html.js";
import { clock, formatted, NONE } from "./format.js";

const { uPlot } = window;
const TABLE_ROWS = 12;
const LEAST_SECONDS = 120; // of the axis, when the agent has just started
const sync = uPlot.sync("page");

// What the canvas draws with; style.css defines it, for light and dark.
function colour(name) {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const DASHES = [[], [5, 3], [2, 2], []];
const COLOURS = ["accent", "strong", "critical", "muted"];
const SHADES = ["stack-0", "stack-1", "stack-2", "stack-3"]; // of a stack, from the bottom up
const LIMIT_SEEN = 0.2; // a limit is in the picture when so much of it is used
const MINUTES = [1, 2, 5, 10, 15, 30, 60].map((each) => each * 60);
const WIDTHS = { ratio: 44, seconds: 52, per_second: 56, bytes: 60, bytes_per_second: 70 }; // of the axis
const BINARY = Array.from({ length: 60 }, (_, power) => 2 ** power);

export class Chart {
  // `lines` are {name, title, tone}: tone 0 is the accent, 1 neutral, 2 what hurts, 3 faint; with `layer`
  // they are layers of a stack instead. `limits()` are {title, value}, drawn as dashed lines.
  constructor({ title, unit, lines, top, least, limits }) {
    this.title = title;
    this.unit = unit;
    this.lines = lines;
    this.top = top;
    this.least = least ?? 0;
    this.limits = limits ?? (() => []);
    this.history = null;
    this.minutes = 60;
    this.open = false;
    this.at = null;
    this.frame = document.createElement("figure");
    this.frame.className = "chart";
    this.head = this.frame.appendChild(document.createElement("figcaption"));
    this.box = this.frame.appendChild(document.createElement("div"));
    this.box.className = "plot";
    this.box.setAttribute("role", "img");
    this.box.setAttribute("aria-label", `${title}, as lines; the button above has the table`);
    this.table = this.frame.appendChild(document.createElement("div"));
    this.table.className = "chart-table";
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.box);
  }

  update(history, minutes) {
    this.history = history;
    this.minutes = minutes;
    if (!this.plot && this.box.clientWidth) this.build();
    this.plot?.setData(this.data());
    this.redraw();
  }

  // Each layer of a stack is drawn from the ground to its upper edge, the highest one first.
  data() {
    const { times, series } = this.history;
    let below = null;
    const drawn = this.lines.map((line) => {
      if (!line.layer) return series[line.name];
      const under = below;
      below = series[line.name].map((each, at) => plus(each, under && under[at]));
      return below;
    });
    return [times, ...this.order().map((at) => drawn[at])];
  }

  order() {
    const all = this.lines.map((_, at) => at);
    const layers = all.filter((at) => this.lines[at].layer).reverse();
    return [...layers, ...all.filter((at) => !this.lines[at].layer)];
  }

  build() {
    const ink = colour("muted");
    const grid = { stroke: colour("line"), width: 1 };
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: ink, font, grid, ticks: { show: false }, gap: 4 };
    const bytes = this.unit.startsWith("bytes");
    this.limitColour = colour("warning");
    this.plot?.destroy();
    this.plot = new uPlot(
      {
        ...this.size(),
        padding: [8, 8, 0, 0],
        legend: { show: false },
        cursor: { sync: { key: sync.key }, y: false, points: { size: 6 }, drag: { setScale: false } },
        scales: { x: { range: () => this.period() }, y: { range: (_, low, high) => this.range(high) } },
        axes: [
          { ...axis, size: 22, space: 64, incrs: MINUTES, values: (_, times) => times.map((t) => clock(t).slice(0, 5)) },
          {
            ...axis,
            size: WIDTHS[this.unit],
            space: 26,
            ...(bytes ? { incrs: BINARY } : {}),
            values: (_, values) => values.map((each) => tick(each, this.unit)),
          },
        ],
        series: [
          {},
          ...this.order().map((at) => style(this.lines[at], at)),
        ],
        hooks: {
          setCursor: [(plot) => this.point(plot.cursor.idx)],
          draw: [(plot) => this.drawLimits(plot)],
        },
      },
      this.data(),
      this.box,
    );
  }

  size() {
    return { width: Math.max(120, this.box.clientWidth), height: Math.max(60, this.box.clientHeight) };
  }

  resize() {
    if (!this.box.clientWidth || !this.history) return;
    if (this.plot) this.plot.setSize(this.size());
    else this.build();
  }

  period() {
    const times = this.history?.times ?? [];
    const end = times.at(-1) ?? Date.now() / 1000;
    const known = Math.min(times[0] ?? end, end - LEAST_SECONDS);
    return [Math.max(end - this.minutes * 60, known), end];
  }

  range(high) {
    if (this.top) return [0, this.top()];
    const near = this.limits().map((each) => each.value).filter((each) => each * LIMIT_SEEN <= (high ?? 0));
    return [0, Math.max(this.least, (high ?? 0) * 1.1, ...near.map((each) => each * 1.1)) || 1];
  }

  drawLimits({ ctx, bbox, valToPos, scales }) {
    ctx.save();
    ctx.strokeStyle = this.limitColour;
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.setLineDash([7, 4].map((each) => each * devicePixelRatio));
    for (const { value } of this.limits()) {
      if (value > scales.y.max) continue;
      const y = Math.round(valToPos(value, "y", true));
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
    }
    ctx.restore();
  }

  point(index) {
    if (index === this.at) return;
    this.at = index ?? null;
    this.redraw();
  }

  // Colours are drawn, so a change of them draws again.
  repaint() {
    if (this.plot) this.build();
  }

  toggle() {
    this.open = !this.open;
    this.redraw();
  }

  redraw() {
    const { times, series } = this.history;
    const at = this.at ?? times.length - 1;
    const empty = this.lines.every((line) => series[line.name].every((each) => each === null));
    this.box.classList.toggle("without", empty);
    render(
      html`<span class="title">${this.title}</span>
        ${this.lines.map(
          (line, index) => html`<span class="key ${line.layer ? `layer-${index}` : `tone-${line.tone}`}"
            ><i aria-hidden="true"></i>${line.title} <b>${formatted(series[line.name][at], this.unit)}</b></span
          >`,
        )}
        ${this.limits().map(
          (each) => html`<span class="key limit"><i aria-hidden="true"></i>${each.title} <b>${formatted(each.value, this.unit)}</b></span>`,
        )}
        ${this.at === null || !times.length ? "" : html`<time>${clock(times[at])}</time>`}
        <button class="quiet" aria-expanded=${this.open} aria-label="Table of ${this.title}" @click=${() => this.toggle()}>
          ${this.open ? "Chart" : "Table"}
        </button>`,
      this.head,
    );
    this.box.hidden = this.open;
    this.table.hidden = !this.open;
    render(this.open ? this.rows() : "", this.table);
  }

  rows() {
    const { times, series } = this.history;
    const from = times.findIndex((each) => each >= this.period()[0]);
    const stride = Math.max(1, Math.floor((times.length - from) / TABLE_ROWS));
    const picked = [];
    for (let at = times.length - 1; at >= Math.max(0, from); at -= stride) picked.push(at);
    return html`<table>
      <thead>
        <tr><th scope="col">Time</th>${this.lines.map((each) => html`<th scope="col" class="number">${each.title}</th>`)}</tr>
      </thead>
      <tbody>
        ${picked.map(
          (at) => html`<tr>
            <th scope="row">${clock(times[at])}</th>
            ${this.lines.map((each) => html`<td class="number">${formatted(series[each.name][at], this.unit)}</td>`)}
          </tr>`,
        )}
      </tbody>
    </table>`;
  }

  destroy() {
    this.sizes.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }
}

function style({ tone, layer }, index) {
  if (layer) return { stroke: colour("panel"), width: 1, fill: colour(SHADES[index]), points: { show: false } };
  return {
    stroke: colour(COLOURS[tone]),
    width: index ? 1.25 : 1.5,
    dash: DASHES[tone],
    fill: index ? undefined : colour("accent-soft"),
    points: { show: false },
  };
}

// A layer that is not known has no height.
function plus(value, under) {
  return value === null ? under : value + (under ?? 0);
}

function tick(value, unit) {
  if (value === 0) return "0";
  if (unit === "ratio") return `${+(value * 100).toPrecision(3)} %`;
  const text = formatted(value, unit);
  return text === NONE ? "" : text.replace(/\.0+ /, " ").replace(/(\.\d*?)0+ /, "$1 ");
}
