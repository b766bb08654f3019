// The table of guests. The rows in view are in the document and no others; the rest is height.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { repeat } from "./vendor/lit-html-3.3.3/directives/repeat.js";
import { COLUMNS, columnsOf } from "./columns.js";
import { GuestRow } from "./row.js";
import { change, link } from "./url.js";

export const ROW = 28;
const AROUND = 3; // rows rendered above and below those in view
const ASKED = 60; // rows of the stream's window
const ALWAYS = ["uuid", "name", "state", "stuck", "severity", "memory_max_bytes"]; // columns of any row
const TYPING_MS = 250;
const SCROLLING_MS = 120;

export class GuestList {
  constructor(changed) {
    this.changed = changed;
    this.total = 0;
    this.matched = null;
    this.offset = 0;
    this.top = 0;
    this.height = 600;
    this.active = 0;
    this.asked = "";
    this.rows = new Map(); // by uuid
    this.places = []; // uuid by place in the order
    this.elements = new Map(); // by uuid, of those in the document
  }

  // The path of the stream for what is in view; other words or sorting start again at the top.
  path(url, width) {
    const words = `sort=${encodeURIComponent(url.sort)}&filter=${encodeURIComponent(url.filter)}`;
    const shown = columnsOf(url.columns, width).map((each) => each.id);
    const columns = [...new Set([...ALWAYS, ...shown])];
    if (words !== this.asked) {
      this.asked = words;
      this.offset = 0;
      this.places = [];
      this.active = 0;
      this.scroller?.scrollTo(0, 0);
    }
    return `api/v1/live?view=guests&${words}&offset=${this.offset}&limit=${ASKED}&columns=${columns}`;
  }

  take(document) {
    this.total = document.total;
    this.matched = document.matched;
    for (const row of document.rows) this.rows.set(row.uuid, Object.assign(this.rows.get(row.uuid) ?? {}, row));
    if (document.order) {
      document.order.forEach((uuid, index) => (this.places[this.offset + index] = uuid));
      this.places.length = Math.min(this.places.length, this.matched);
      this.forget();
    }
  }

  // Rows that stand nowhere any more; with the window moving on, the others stay for its return.
  forget() {
    if (this.rows.size <= 4 * ASKED) return;
    const kept = new Set(this.places.slice(this.offset, this.offset + ASKED));
    for (const uuid of this.rows.keys()) if (!kept.has(uuid)) this.rows.delete(uuid);
  }

  forgetElements() {
    for (const [uuid, { tr }] of this.elements) if (!tr.isConnected) this.elements.delete(uuid);
  }

  scrolled(element) {
    this.top = element.scrollTop;
    this.changed();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), SCROLLING_MS);
  }

  // Moves the stream's window when what is in view leaves it.
  ask() {
    const first = Math.floor(this.top / ROW);
    const last = first + Math.ceil(this.height / ROW);
    if (first >= this.offset && Math.min(last, this.matched ?? 0) <= this.offset + ASKED) return;
    this.offset = Math.max(0, first - Math.floor((ASKED - (last - first)) / 2));
    this.changed();
  }

  attach(element) {
    if (element === this.scroller) return;
    this.scroller = element;
    this.sizes?.disconnect();
    if (!element) return;
    element.scrollTop = this.top;
    this.sizes = new ResizeObserver(() => {
      this.height = element.clientHeight;
      this.changed();
    });
    this.sizes.observe(element);
  }

  window() {
    const first = Math.max(0, Math.floor(this.top / ROW) - AROUND);
    const last = Math.min(this.matched ?? 0, Math.ceil((this.top + this.height) / ROW) + AROUND);
    return { first: Math.min(first, Math.max(0, last)), last };
  }

  // Keys move from name to name, also to rows that are not in the document yet.
  key(event) {
    const page = Math.max(1, Math.floor(this.height / ROW) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const move = moves[event.key];
    if (move === undefined || !event.target.closest?.("tbody")) return;
    event.preventDefault();
    this.active = Math.max(0, Math.min((this.matched ?? 1) - 1, this.active + move));
    const top = this.active * ROW;
    const visible = this.height - 2 * ROW;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top > this.scroller.scrollTop + visible) this.scroller.scrollTop = top - visible;
    this.top = this.scroller.scrollTop;
    this.focus = true;
    this.changed();
  }

  // After a frame: the active name has the focus again, whatever row was made again.
  rendered() {
    this.forgetElements();
    if (!this.focus) return;
    const found = this.scroller?.querySelector(`tr[aria-rowindex="${this.active + 2}"] a`);
    if (!found) return;
    found.focus({ preventScroll: true });
    this.focus = false;
  }
}

export function guestTable(model) {
  const { guests, url } = model;
  const columns = columnsOf(url.columns, model.width);
  return html`<section class="panel guests" aria-label="Guests">
    <h2>Guests <small aria-live="polite">${counts(guests)}</small></h2>
    ${tools(model, columns)} ${helps(model)}
    ${model.filterFault ? html`<p class="fault" role="alert">▲ ${model.filterFault}</p>` : ""}
    ${guests.matched === 0 ? noGuests(guests) : rowsOf(model, columns)}
  </section>`;
}

function counts({ total, matched }) {
  if (matched === null) return "";
  return matched === total ? `${total}` : `${matched} of ${total}`;
}

function noGuests({ total }) {
  return html`<p class="empty">${total ? "No guest matches the filter." : "No guests on this host. Start one, and it appears here within seconds."}</p>`;
}

function tools(model, columns) {
  const { guests, url } = model;
  const typed = ({ target }) => {
    clearTimeout(guests.typing);
    guests.typing = setTimeout(() => change(model.url, { filter: target.value.trim() }), TYPING_MS);
  };
  const picked = (event) => {
    const { value, checked } = event.target;
    const ids = columns.map((each) => each.id).filter((each) => each !== value);
    change(model.url, { columns: checked ? [...ids, value] : ids });
  };
  return html`<div class="tools">
    <label class="filter"><span class="hidden">Filter</span>
      <input type="search" placeholder="Filter: web  steal>5  project:x  state:paused" spellcheck="false" autocomplete="off"
        .value=${url.filter} @input=${typed} aria-describedby="filter-help">
    </label>
    <span id="filter-help" class="hidden">Words that must all match: a part of a name, steal>5, project:x, state:paused, -name:x</span>
    ${url.sort ? html`<button class="quiet" @click=${() => change(url, { sort: "" })}>What hurts first</button>` : ""}
    <details class="picker">
      <summary>Columns</summary>
      <fieldset>
        <legend class="hidden">Columns</legend>
        ${COLUMNS.filter((each) => each.id !== "name").map(
          (each) => html`<label data-help=${help(model.columns, each)}><input type="checkbox" aria-describedby="help-${each.id}" value=${each.id} .checked=${columns.includes(each)} @change=${picked}> ${each.title === "of" ? "Memory, at most" : each.title}</label>`,
        )}
        ${url.columns ? html`<button class="quiet" @click=${() => change(url, { columns: null })}>Default columns</button>` : ""}
      </fieldset>
    </details>
  </div>`;
}

function rowsOf(model, columns) {
  const { guests } = model;
  const { first, last } = guests.window();
  const places = Array.from({ length: Math.max(0, last - first) }, (_, index) => first + index);
  const width = columns.reduce((sum, each) => sum + each.width, 0);
  const key = (place) => guests.places[place] ?? place;
  return html`<div class="rows" tabindex="-1" @scroll=${(event) => guests.scrolled(event.target)} @keydown=${(event) => guests.key(event)}>
    <table aria-label="Guests" aria-rowcount=${(guests.matched ?? 0) + 1} .style=${`min-width:${width}px`}>
      <colgroup>${columns.map((each) => html`<col .style=${each.id === "name" ? "" : `width:${each.width}px`}>`)}</colgroup>
      <thead><tr aria-rowindex="1">${columns.map((each) => heading(model, each))}</tr></thead>
      <tbody>
        ${space(first)}
        ${repeat(places, key, (place) => guestRow(model, columns, place))}
        ${space((guests.matched ?? 0) - last)}
      </tbody>
    </table>
  </div>`;
}

function space(rows) {
  return rows > 0 ? html`<tr class="space" aria-hidden="true"><td .style=${`height:${rows * ROW}px`}></td></tr>` : "";
}

function heading({ url, columns }, column) {
  const down = url.sort === `-${column.id}`;
  const sorted = down ? "descending" : url.sort === column.id ? "ascending" : "none";
  const text = !column.unit;
  const next = sorted === "none" ? (text ? column.id : `-${column.id}`) : down === !text ? (text ? `-${column.id}` : column.id) : "";
  return html`<th scope="col" class="${column.unit ? "number" : ""}" aria-sort=${sorted}
    ><button class="quiet" data-help=${help(columns, column)} aria-describedby="help-${column.id}" @click=${() => change(url, { sort: next })}>${column.title}<i aria-hidden="true">${{ descending: "▼", ascending: "▲", none: "" }[sorted]}</i></button
  ></th>`;
}

const help = (columns, { id }) => columns.get(id)?.help ?? "";

// What each column means, as the description of its head and of its box among the columns to pick.
function helps({ columns }) {
  return html`<div hidden>${COLUMNS.map((each) => html`<span id="help-${each.id}">${help(columns, each)}</span>`)}</div>`;
}

function guestRow(model, columns, place) {
  const { guests, url } = model;
  const uuid = guests.places[place];
  const row = guests.rows.get(uuid);
  if (!row) return html`<tr aria-rowindex=${place + 2}><td colspan=${columns.length} class="waiting">…</td></tr>`;
  let element = guests.elements.get(uuid);
  if (!element?.has(columns)) {
    element = new GuestRow(columns);
    guests.elements.set(uuid, element);
  }
  element.update(row, place, link(url, { view: "guest", uuid }), model);
  return element.tr;
}
