// Small templates that several views are made of.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { formatted, NONE, since, visible } from "./format.js";
import { link } from "./url.js";

export const name = (text) => html`<bdi>${visible(text ?? NONE)}</bdi>`;

// Symbol and word together: colour alone means nothing.
export function mark(severity, word) {
  return html`<span class="mark ${severity}"><i aria-hidden="true">${symbol(severity)}</i> ${word}</span>`;
}

export function symbol(severity) {
  return { critical: "▲", warning: "◆", good: "●" }[severity] ?? "○";
}

const STATES = {
  running: ["good", "running"],
  blocked: ["good", "blocked"],
  paused: ["off", "paused"],
  pmsuspended: ["off", "suspended"],
  shutdown: ["off", "ending"],
  shutoff: ["off", "off"],
  crashed: ["critical", "crashed"],
};

export function stateOf(guest) {
  if (guest.stuck) return ["critical", "stuck"];
  return STATES[guest.state] ?? ["off", "unknown"];
}

export const state = (guest) => mark(...stateOf(guest));

// A number with a bar behind it, full at `top`.
export function meter(value, unit, top) {
  const share = value === null || value === undefined || !top ? 0 : Math.min(1, value / top);
  return html`<span class="meter" .style=${`--share:${(share * 100).toFixed(1)}%`}>${formatted(value, unit)}</span>`;
}

// A number with a symbol, where a finding of that kind would begin or be critical; the API has the threshold.
export function judged({ kinds }, value, unit, kind) {
  const text = formatted(value, unit);
  const severity = severityOf(kinds, kind, value);
  return severity ? mark(severity, text) : text;
}

export function severityOf(kinds, kind, value) {
  const found = kinds.get(kind);
  if (!found || value === null || value === undefined) return "";
  const beyond = (limit) => (found.below ? value <= limit : value >= limit);
  if (found.critical !== null && beyond(found.critical)) return "critical";
  return beyond(found.threshold) ? found.severity : "";
}

export function panel(title, content, note = "") {
  return html`<section class="panel" aria-label=${title}>
    <h2>${title}${note ? html` <small>${note}</small>` : ""}</h2>
    ${content}
  </section>`;
}

// Columns are {title, unit, cell?}; the first is the row's header.
export function table(columns, rows, empty, label, current = () => false) {
  if (!rows.length) return html`<p class="empty">${empty}</p>`;
  return html`<div class="wide" tabindex="0" role="group" aria-label="Table: ${label}"><table role="table" class="plain ${columns.length > columnsThatFit() ? "cards" : ""}">
    <thead role="rowgroup"><tr role="row">${columns.map((each) => html`<th role="columnheader" scope="col" class=${each.unit ? "number" : ""}>${each.title}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.map((row) => html`<tr role="row" aria-current=${current(row)}>${columns.map((column, index) => cell(column, row, index))}</tr>`)}</tbody>
  </table></div>`;
}

// With more columns than this each row is a card; the roles of a table outlive that.
function columnsThatFit() {
  const width = document.documentElement.clientWidth;
  return width > 1000 ? Infinity : width > 560 ? 8 : 4;
}

function cell(column, row, index) {
  const content = column.cell ? column.cell(row) : formatted(row[column.id], column.unit);
  if (!index) return html`<th role="rowheader" scope="row">${content}</th>`;
  return html`<td role="cell" data-title=${column.title} class="${column.unit ? "number" : ""}">${content}</td>`;
}

const LINES = 8;

export function findings(model, list, { all = false } = {}) {
  const shown = all ? list : list.slice(0, LINES);
  if (!list.length) return html`<p class="empty">${mark("good", "Nothing hurts now.")}</p>`;
  return html`<ul class="findings ${all ? "all" : ""}">
      ${shown.map((each) => finding(model, each))}
    </ul>
    ${shown.length < list.length ? html`<p class="more">and ${list.length - shown.length} more; the table below has them first</p>` : ""}`;
}

function finding(model, each) {
  const words = html`<bdi>${visible(each.text)}</bdi>`;
  const numbers = html`${formatted(each.value, each.unit)}<small> limit ${formatted(each.threshold, each.unit)}</small>`;
  const to = each.guest ? link(model.url, { view: "guest", uuid: each.guest.uuid, device: each.device }) : link(model.url, { view: target(each) });
  return html`<li title=${visible(each.advice ?? "")}>
    ${mark(each.severity, each.severity)}
    <a href=${to}>${words}</a>
    <span class="advice">${visible(each.advice ?? "")}</span>
    <span class="number">${each.unit === "count" ? "" : numbers}</span>
    <time class="number">${since(each.since, model.hostNow)}</time>
  </li>`;
}

function target(each) {
  return /^(sink|poll|budget|libvirt)/.test(each.finding) ? "agent" : "host";
}
