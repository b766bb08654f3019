// The strip that is always there: which host, how it is, how old the numbers are.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { clock, span } from "./format.js";
import { mark, name } from "./parts.js";
import { nextTheme, theme } from "./theme.js";
import { link } from "./url.js";

const STALE_SECONDS = 30;

export function header(model) {
  const { host, url } = model;
  return html`<header class="strip">
    <a class="host" href=${link(url, { view: "host" })}>${name(host?.host ?? "virtstatd")}</a>
    <nav aria-label="Views">
      ${tab(url, "host", "Host")}${tab(url, "agent", "Agent")}
    </nav>
    <div class="facts">${host ? facts(host) : ""}</div>
    ${connection(model)}
    <button class="quiet theme" @click=${() => nextTheme(model)} title="Colours: ${theme()}">
      <span aria-hidden="true">${{ auto: "◐", dark: "●", light: "○" }[theme()]}</span><span class="hidden">Colours: ${theme()}</span>
    </button>
  </header>`;
}

function tab(url, view, title) {
  return html`<a href=${link(url, { view })} aria-current=${url.view === view ? "page" : "false"}>${title}</a>`;
}

function facts(host) {
  const { guests, libvirt, findings } = host;
  const parts = [
    ["running", guests.running],
    ["paused", guests.paused],
    ["stopped", guests.stopped],
  ].filter(([word, count]) => count || word === "running");
  return html`
    ${findings.critical ? mark("critical", `${findings.critical} critical`) : ""}
    ${findings.warning ? mark("warning", `${findings.warning} ${findings.warning === 1 ? "warning" : "warnings"}`) : ""}
    <span class="counts">${parts.map(([word, count]) => html`<span><b>${count}</b> ${word}</span>`)}</span>
    ${guests.stuck ? mark("critical", `${guests.stuck} stuck`) : ""}
    <span class="libvirt">${libvirt.up ? mark("good", `libvirt ${libvirt.version ?? ""}`) : mark("critical", "libvirt is down")}</span>`;
}

function connection({ live, host, hostAt, now }) {
  const age = host?.age_seconds;
  const old = age === null || age === undefined ? null : age + Math.max(0, now - hostAt) / 1000;
  const text = old === null ? "no data yet" : `data ${span(old)} old`;
  if (live.state === "live") {
    const severity = old === null || old > STALE_SECONDS ? "warning" : "good";
    return html`<span class="connection">${mark(severity, text)}</span>`;
  }
  if (live.state === "connecting" && !live.heardAt) return html`<span class="connection">${mark("off", "connecting")}</span>`;
  return html`<span class="connection">${mark("warning", `not live, ${text}`)}</span>`;
}

// Below the strip, where there is no connection: since when, why, and what to do.
export function trouble(model) {
  const { live, now } = model;
  if (live.state !== "lost") return "";
  const wait = Math.max(0, Math.ceil((live.retryAt - now) / 1000));
  return html`<div class="trouble ${live.status ? "critical" : "warning"}">
    <p role="alert">${mark(live.status ? "critical" : "warning", title(live))} <span>${advice(live)}</span></p>
    <span class="retry">next try in ${wait} s</span>
    <button @click=${() => live.retry()}>Try now</button>
  </div>`;
}

function title(live) {
  if (live.status === 401) return "Log in to see this host";
  if (live.status === 403) return "Not shown here";
  if (live.status === 503) return "Live view is full";
  if (live.status) return `The agent answers with ${live.status}`;
  return live.heardAt ? `No connection since ${clock(live.heardAt / 1000)}` : "No connection";
}

function advice(live) {
  if (live.status === 401) return "Reload the page and log in with a user of the table [web].";
  if (live.status === 403) return live.reason || "The API is closed to you: see users and access in the table [web].";
  if (live.status === 503) return "Too many viewers at once (web.viewers); the numbers below are refreshed at each try.";
  if (live.status) return live.reason;
  return live.heardAt ? "The numbers below are from then." : "The agent may be starting; see systemctl status virtstatd.";
}
