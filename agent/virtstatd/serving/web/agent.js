// The agent's view: what it costs, whether it is on time, and what each sink got.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { formatted, moment } from "./format.js";
import { mark, meter, name, panel, table } from "./parts.js";

export function agentView(model) {
  const { agent, findings } = model;
  if (!agent) return html`<main class="view"><p class="empty">Loading…</p></main>`;
  const hurts = findings.some((each) => !each.guest) || agent.sinks.some((each) => each.state !== "ok");
  return html`<main class="view">
    <section class="panel" aria-label="Agent">
      <h1>virtstatd ${agent.agent_version ?? ""} ${hurts ? mark("warning", "needs attention") : mark("good", "fine")}</h1>
      <dl class="facts-list">${facts(agent).map(([title, value]) => html`<div><dt>${title}</dt><dd>${value}</dd></div>`)}</dl>
    </section>
    ${panel("Sinks", table(SINKS, agent.sinks, "No sinks: add [[sink]] tables to send numbers on.", "Sinks"))}
    <div class="columns">
      ${panel("Tiers of polls", table(TIERS, agent.tiers, "Nothing is polled.", "Tiers of polls"))}
      ${panel("Collectors", table(COLLECTORS, agent.collectors, "No collectors.", "Collectors"))}
    </div>
  </main>`;
}

function facts(agent) {
  const { cost, calls } = agent;
  const budget = cost.budget_ratio ? html`${meter(cost.ratio, "ratio", cost.budget_ratio)} of ${formatted(cost.budget_ratio, "ratio")}` : formatted(cost.ratio, "ratio");
  return [
    ["Runs since", moment(agent.since)],
    ["CPU", html`${formatted(cost.cpu_seconds_per_second, "seconds")} per second`],
    ["Share of the host", budget],
    ["Longest lag of its loop", formatted(agent.loop_lag_seconds, "seconds")],
    ["Calls under way", formatted(calls.outstanding, "count")],
    ["Calls abandoned", calls.abandoned ? mark("warning", calls.abandoned) : formatted(calls.abandoned, "count")],
  ];
}

const some = (id) => (row) => (row[id] ? mark("warning", formatted(row[id], "count")) : formatted(row[id], "count"));

const TIERS = [
  { title: "Tier", cell: (row) => name(row.name) },
  {
    title: "Interval",
    unit: "seconds",
    cell: (row) =>
      row.interval_seconds > row.configured_interval_seconds
        ? mark("warning", `${formatted(row.interval_seconds, "age")}, stretched from ${formatted(row.configured_interval_seconds, "age")}`)
        : formatted(row.interval_seconds, "age"),
  },
  { title: "Last poll", unit: "age", cell: (row) => (row.age_seconds === null ? formatted(null) : `${formatted(row.age_seconds, "age")} ago`) },
  { title: "Polls", id: "polls", unit: "count" },
  { title: "Skipped", id: "skipped", unit: "count" },
  { title: "Guests missing", unit: "count", cell: some("missing") },
  { title: "Guests partial", unit: "count", cell: some("partial") },
];

const SINKS = [
  { title: "Sink", cell: (row) => name(row.name) },
  { title: "State", cell: (row) => (row.state === "ok" ? mark("good", "ok") : mark("critical", row.circuit_open ? "failing, circuit open" : "failing")) },
  { title: "Accepted", id: "accepted_samples", unit: "count" },
  { title: "Delivered", id: "delivered_samples", unit: "count" },
  { title: "Waiting", id: "waiting_samples", unit: "count" },
  { title: "Dropped", unit: "count", cell: some("dropped_samples") },
  { title: "Lost", unit: "count", cell: some("lost_samples") },
  { title: "Lag", id: "lag_seconds", unit: "age" },
  { title: "Spool", id: "spool_bytes", unit: "bytes" },
];

const COLLECTORS = [
  { title: "Collector", cell: (row) => name(row.name) },
  { title: "Last round", cell: (row) => (row.success === null ? mark("off", "does not apply") : row.success ? mark("good", "ok") : mark("critical", "failed")) },
  { title: "Took", id: "duration_seconds", unit: "seconds" },
  { title: "Ended", unit: "age", cell: (row) => (row.age_seconds === null ? formatted(null) : `${formatted(row.age_seconds, "age")} ago`) },
];
