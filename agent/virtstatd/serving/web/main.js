// The page: what it knows, what it shows, and one frame for however many events.

import { html, render } from "./vendor/lit-html-3.3.3/lit-html.js";
import { agentView } from "./agent.js";
import { guestView } from "./guest.js";
import { GuestCharts } from "./guest_charts.js";
import { GuestList } from "./guests.js";
import { Happened } from "./happened.js";
import { header, trouble } from "./header.js";
import { HostCharts, hostView } from "./host.js";
import { get, Live } from "./live.js";
import { startHints } from "./hints.js";
import { startTheme } from "./theme.js";
import { readUrl } from "./url.js";

const root = document.getElementById("page");
const GONE = "There is no such guest on this host now.";
const VIEWS = { host: hostView, guest: guestView, agent: agentView };

const model = {
  url: readUrl(),
  host: null,
  hostAt: Date.now(), // when it came, by the browser's clock
  findings: [],
  kinds: new Map(), // of findings, by name: from which value on something hurts
  columns: new Map(), // of the table of guests, by id: what they mean
  partitions: [],
  lists: {},
  happened: new Happened(),
  guest: null,
  guestFault: "",
  filterFault: "",
  agent: null,
  leads: Boolean(readUrl().device),
  now: Date.now(),
  hostNow: Date.now(), // by the host's clock, which may not be ours
  width: document.documentElement.clientWidth,
  allVcpus: false,
  charts: { host: new HostCharts(), guest: null },
  guests: new GuestList(() => {
    follow();
    draw();
  }),
  live: new Live(take, () => {
    if (model.live.state === "refused") refused();
    if (model.live.state === "live") {
      loadWords();
      loadHistory();
    }
    else if (model.live.status === 503) loadOnce();
    draw();
  }),
  draw,
  repaint() {
    for (const charts of Object.values(model.charts)) charts?.charts.forEach((each) => each.repaint());
    draw();
  },
};

let frame = 0;

function draw() {
  if (!frame && !document.hidden) frame = requestAnimationFrame(paint);
}

function paint() {
  frame = 0;
  model.now = Date.now();
  model.hostNow = model.host ? Date.parse(model.host.time) + model.now - model.hostAt : model.now;
  const { view, minutes } = model.url;
  render(html`${header(model)}${trouble(model)}${VIEWS[view](model)}`, root);
  model.guests.attach(root.querySelector(".rows"));
  model.guests.rendered();
  lead();
  if (view !== "agent") model.charts[view]?.update(minutes);
}

// Once the disk or NIC that a finding is about is there, it comes into view.
function lead() {
  if (!model.leads) return;
  const found = root.querySelector("tr[aria-current=true]");
  if (!found) return;
  found.scrollIntoView({ block: "center" });
  model.leads = false;
}

// What each event of the stream changes.
function take(name, document) {
  if (name === "host") {
    model.host = document;
    model.hostAt = Date.now();
    model.charts.host.add(document);
  } else if (name === "findings") {
    model.findings = document.findings;
  } else if (name === "guests") {
    model.filterFault = "";
    model.guests.take(document);
  } else if (name === "guest" && !document.guest) {
    model.guest = null;
    model.guestFault = GONE;
  } else if (name === "guest" && document.guest.uuid === model.url.uuid) {
    model.guest = document;
    model.guestFault = "";
    model.charts.guest?.add(document);
  } else if (name === "agent") {
    model.agent = document;
  }
  draw();
}

function refused() {
  const { live, url } = model;
  if (url.view === "host") model.filterFault = live.reason;
  else model.guestFault = GONE;
}

// Without a stream, for this once: as of the next try.
async function loadOnce() {
  await Promise.allSettled([
    get("api/v1/host").then((each) => take("host", each)),
    get("api/v1/findings").then((each) => take("findings", each)),
  ]);
}

// What never changes while an agent runs.
async function loadWords() {
  const [found, guests] = await Promise.allSettled([get("api/v1/findings"), get("api/v1/guests?limit=0")]);
  model.kinds = byName(found.value?.kinds, "finding") ?? model.kinds;
  model.columns = byName(guests.value?.columns, "id") ?? model.columns;
  draw();
}

const byName = (list, key) => list && new Map(list.map((each) => [each[key], each]));

let loaded = "";

// The last hour: once for the host, for each guest that is opened, and after each interruption.
async function loadHistory() {
  const { view, uuid } = model.url;
  const wanted = `${view}/${uuid}/${model.live.heardAt}`;
  if (loaded === wanted) return;
  loaded = wanted;
  try {
    if (view === "guest") await loadGuest(uuid);
    else if (view === "host") await loadHost();
  } catch {
    loaded = ""; // the stream reports what is wrong, and its return tries again
  }
  draw();
}

async function loadHost() {
  const found = await get("api/v1/host?history=1");
  model.partitions = found.partitions ?? [];
  model.lists = found;
  model.charts.host.load(found);
  if (!model.host) take("host", found);
  await model.happened.load();
}

async function loadGuest(uuid) {
  const found = await get(`api/v1/guests/${encodeURIComponent(uuid)}?history=1`);
  if (uuid !== model.url.uuid) return;
  model.charts.guest.load(found);
  model.guest = found;
}

// The stream leaves out what changes slowly.
async function loadPartitions() {
  if (document.hidden || model.url.view !== "host" || model.live.state !== "live") return;
  try {
    model.lists = await get("api/v1/host");
    model.partitions = model.lists.partitions ?? [];
    await model.happened.load();
  } catch {
    return; // the stream reports what is wrong
  }
  draw();
}

function follow() {
  const { url, guests, live } = model;
  const paths = {
    host: () => guests.path(url, model.width),
    guest: () => `api/v1/live?view=guest&uuid=${encodeURIComponent(url.uuid)}`,
    agent: () => "api/v1/live?view=agent",
  };
  live.watch(paths[url.view]());
}

function urlChanged({ type }) {
  const before = model.url;
  const now = (model.url = readUrl());
  const other = now.view !== before.view || now.uuid !== before.uuid;
  if (type === "hashchange" && (other || now.device !== before.device)) model.leads = Boolean(now.device);
  if (other) {
    model.charts.guest?.destroy();
    model.charts.guest = now.view === "guest" ? new GuestCharts() : null;
    model.guest = null;
    model.guestFault = "";
    model.allVcpus = false;
    window.scrollTo(0, 0);
  }
  follow();
  if (other && model.live.state === "live") loadHistory();
  document.title = now.view === "guest" ? "Guest – virtstatd" : now.view === "agent" ? "Agent – virtstatd" : "virtstatd";
  draw();
}

startHints();
startTheme(() => model.repaint());
window.addEventListener("hashchange", urlChanged);
window.addEventListener("urlchange", urlChanged);
window.addEventListener("resize", () => {
  model.width = document.documentElement.clientWidth;
  follow();
  draw();
});
document.addEventListener("visibilitychange", draw);
setInterval(loadPartitions, 15_000);
setInterval(draw, 1000); // ages grow without events
if (model.url.view === "guest") model.charts.guest = new GuestCharts();
follow();
draw();
