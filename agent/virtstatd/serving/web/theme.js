// Dark or light: as the system has it, unless the switch is set, which this browser remembers.

const THEMES = ["auto", "dark", "light"];
const KEY = "virtstatd.theme";

export function theme() {
  const found = document.documentElement.dataset.theme;
  return THEMES.includes(found) ? found : "auto";
}

export function startTheme(changed) {
  try {
    set(localStorage.getItem(KEY));
  } catch {
    set("auto"); // storage is forbidden here
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}

export function nextTheme(model) {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  set(next);
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // is forgotten with the page
  }
  model.repaint();
}

function set(name) {
  if (THEMES.includes(name) && name !== "auto") document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
}
