// A row of the table of guests, made without templates: its cells are nearly all that the document has.

import { COLUMNS, content } from "./columns.js";
import { visible } from "./format.js";
import { symbol } from "./parts.js";

const STATE = COLUMNS.find((each) => each.id === "state");

export class GuestRow {
  constructor(columns) {
    this.columns = columns;
    this.tr = document.createElement("tr");
    this.tr.addEventListener("click", (event) => this.clicked(event));
    this.cells = columns.map((column) => this.tr.appendChild(cellOf(column)));
    this.link = this.tr.querySelector("a");
    if (!columns.some((each) => each.id === "state")) this.sign = this.addSign();
    this.bdi = this.link.firstChild;
  }

  has(columns) {
    return columns.length === this.columns.length && columns.every((each, index) => each === this.columns[index]);
  }

  update(row, place, href, model) {
    const { guests } = model;
    this.link.onfocus = () => (guests.active = place);
    set(this.tr, "aria-rowindex", place + 2);
    set(this.tr, "class", row.severity);
    set(this.link, "href", href);
    set(this.link, "tabindex", place === guests.active ? 0 : -1);
    const name = visible(row.name);
    if (this.bdi.textContent !== name) this.bdi.textContent = name;
    if (this.sign) fill(this.sign, content(STATE, row, model));
    this.columns.forEach((column, index) => column.id === "name" || fill(this.cells[index], content(column, row, model)));
  }

  // Without a column of its own the state stands before the name.
  addSign() {
    const sign = document.createElement("span");
    this.link.before(sign);
    this.link.classList.add("beside");
    return sign;
  }

  clicked(event) {
    if (event.target.closest("a") || String(getSelection())) return;
    location.hash = this.link.getAttribute("href");
  }
}

function cellOf(column) {
  const named = column.id === "name";
  const cell = document.createElement(named ? "th" : "td");
  if (named) {
    cell.scope = "row";
    cell.appendChild(document.createElement("a")).appendChild(document.createElement("bdi"));
  }
  if (column.unit) cell.classList.add("number");
  if (column.full) cell.classList.add("meter");
  return cell;
}

function fill(cell, { text, severity, share }) {
  if (share !== undefined) cell.style.setProperty("--share", `${(share * 100).toFixed(1)}%`);
  const before = cell.content;
  if (before?.text === text && before.severity === severity) return;
  cell.content = { text, severity };
  if (severity) cell.replaceChildren(markOf(severity, text));
  else cell.textContent = text;
}

function markOf(severity, text) {
  const mark = document.createElement("span");
  mark.className = `mark ${severity}`;
  const sign = mark.appendChild(document.createElement("i"));
  sign.setAttribute("aria-hidden", "true");
  sign.textContent = symbol(severity);
  const word = mark.appendChild(document.createElement("span"));
  word.className = "word";
  word.textContent = ` ${text}`;
  return mark;
}

function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}
