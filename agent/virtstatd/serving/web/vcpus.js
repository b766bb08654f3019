// The vCPUs of a guest, from 1 to hundreds: as many tables side by side as the page has room for.

import { html } from "./vendor/lit-html-3.3.3/lit-html.js";
import { formatted, visible } from "./format.js";
import { panel, severityOf } from "./parts.js";

export const FEW = 8; // so many share a row with another panel
const MOST = 128; // of more, those with the most steal are shown
const TABLE_WIDTH = 300;
const DENSE = 32; // from so many on the rows are lower
const TALL = 48; // a table of more rows is cut until it is opened
const WORST = 16;

export function vcpusOf(model) {
  const all = model.guest.vcpus;
  if (!all.length) return panel("vCPUs", html`<p class="empty">No numbers of its vCPUs.</p>`);
  const tall = all.length / room(model) > TALL;
  const most = tall && !model.allVcpus ? WORST : MOST;
  const shown = all.length > most ? [...all].sort(bySteal).slice(0, most) : all;
  return panel(
    "vCPUs",
    html`<div class="vcpus ${shown.length > DENSE ? "dense" : ""}">${parts(model, shown)}</div>
      ${tall && all.length > WORST ? more(model, Math.min(MOST, all.length)) : ""}`,
    note(all, shown),
  );
}

function more(model, count) {
  const toggle = () => {
    model.allVcpus = !model.allVcpus;
    model.draw();
  };
  return html`<button @click=${toggle} aria-expanded=${model.allVcpus}>${model.allVcpus ? `Only ${WORST}` : `All ${count}`}</button>`;
}

const bySteal = (a, b) => (b.steal_ratio ?? -1) - (a.steal_ratio ?? -1);
const room = (model) => Math.max(1, Math.floor((model.width - 60) / TABLE_WIDTH));

function note(all, shown) {
  if (all.length <= FEW) return "";
  if (shown.length < all.length) return `the ${shown.length} of ${all.length} with the most steal`;
  const [worst] = [...all].sort(bySteal);
  return worst.steal_ratio ? `${all.length}, most steal: vCPU ${visible(worst.vcpu)} with ${formatted(worst.steal_ratio, "ratio")}` : `${all.length}`;
}

function parts(model, all) {
  const count = Math.min(room(model), Math.ceil(all.length / FEW));
  const size = Math.ceil(all.length / count);
  return Array.from({ length: Math.ceil(all.length / size) }, (_, at) => part(model, all.slice(at * size, (at + 1) * size)));
}

function part(model, rows) {
  const label = rows.length > 1 ? `vCPUs ${rows[0].vcpu} to ${rows.at(-1).vcpu}` : `vCPU ${rows[0].vcpu}`;
  return html`<table class="plain" aria-label=${label}>
    <thead><tr><th scope="col">vCPU</th><th scope="col" class="number">Run</th><th scope="col" class="number">Steal</th><th scope="col" class="number">Wait</th></tr></thead>
    <tbody>${rows.map((each) => row(model, each))}</tbody>
  </table>`;
}

// Few nodes: there may be 128 of them.
function row({ kinds }, { vcpu, cpu_ratio, steal_ratio, wait_ratio }) {
  const severity = severityOf(kinds, "steal", steal_ratio);
  const share = `--share:${(Math.min(1, cpu_ratio ?? 0) * 100).toFixed(1)}%`;
  return html`<tr><th scope="row">${visible(vcpu)}</th><td class="number meter" .style=${share}>${formatted(cpu_ratio, "ratio")}</td
    ><td class="number sign ${severity}">${formatted(steal_ratio, "ratio")}</td><td class="number">${formatted(wait_ratio, "ratio")}</td></tr>`;
}
