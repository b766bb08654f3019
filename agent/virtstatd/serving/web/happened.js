// What happened last to the guests of this host, those that have ended too.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { moment } from "./format.js";
import { get } from "./live.js";
import { name, panel, table } from "./parts.js";
import { link } from "./url.js";

const SHOWN = 20;

export class Happened {
  constructor() {
    this.events = [];
  }

  async load() {
    this.events = (await get(`api/v1/events?limit=${SHOWN}`)).events ?? [];
  }
}

export function happened({ happened: { events }, url }) {
  if (!events.length) return "";
  const to = (guest) => link(url, { view: "guest", uuid: guest.uuid, device: "" });
  const columns = [
    { title: "Time", cell: (row) => moment(row.time) },
    { title: "Guest", cell: (row) => html`<a href=${to(row.guest)}>${name(row.guest.name)}</a>` },
    { title: "Event", cell: (row) => html`<span class="prose">${name(row.text)}</span>` },
    { title: "Times", id: "count", unit: "count" },
  ];
  return panel("What happened", table(columns, events, "", "What happened"));
}
