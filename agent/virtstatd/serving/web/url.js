// The state of the page is the part of the address behind #: what is shown, and how.

export function readUrl() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view = "", uuid = ""] = path.split("/");
  const given = new URLSearchParams(query);
  const columns = given.get("columns");
  return {
    view: view === "guest" && uuid ? "guest" : view === "agent" ? "agent" : "host",
    uuid: decode(uuid),
    device: given.get("device") ?? "", // a disk or NIC of the guest that a finding led to
    sort: given.get("sort") ?? "",
    filter: given.get("filter") ?? "",
    columns: columns ? columns.split(",") : null,
    minutes: given.get("minutes") === "15" ? 15 : 60,
  };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function link(url, change) {
  const to = { ...url, ...change };
  const query = new URLSearchParams();
  if (to.view === "guest" && change.device) query.set("device", change.device);
  if (to.sort) query.set("sort", to.sort);
  if (to.filter) query.set("filter", to.filter);
  if (to.columns) query.set("columns", to.columns.join(","));
  if (to.minutes !== 60) query.set("minutes", to.minutes);
  const path = { host: "#/", agent: "#/agent" }[to.view] ?? `#/guest/${encodeURIComponent(to.uuid)}`;
  const text = query.toString().replaceAll("%2C", ",");
  return text ? `${path}?${text}` : path;
}

// Changes of sorting, filter and columns leave no entry in the history.
export function change(url, what) {
  history.replaceState(null, "", link(url, what));
  window.dispatchEvent(new Event("urlchange"));
}
