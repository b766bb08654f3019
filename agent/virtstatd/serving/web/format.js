// Numbers and names as text. What is not known is a dash, never 0.

export const NONE = "–";

const known = (format) => (value) => (value === null || value === undefined ? NONE : format(value));

function scaled(value, step, units) {
  let size = Math.abs(value);
  let at = 0;
  while (size >= step * 0.9995 && at < units.length - 1) {
    size /= step;
    at += 1;
  }
  const digits = at === 0 && Number.isInteger(size) ? 0 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return `${value < 0 ? "−" : ""}${size.toFixed(digits)} ${units[at]}`;
}

const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const RATES = BYTES.map((each) => `${each}/s`);

function seconds(value) {
  if (value === 0) return "0 s";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 0.09995) return `${(value * 1e3).toFixed(value < 0.00995 ? 2 : 1)} ms`;
  if (value < 0.9995) return `${(value * 1e3).toFixed(0)} ms`;
  return value < 99.95 ? `${value.toFixed(value < 9.95 ? 2 : 0)} s` : span(value);
}

export function span(value) {
  if (value < 99.5) return `${value.toFixed(0)} s`;
  if (value < 5970) return `${(value / 60).toFixed(0)} min`;
  if (value < 356400) return `${(value / 3600).toFixed(0)} h`;
  return `${(value / 86400).toFixed(0)} d`;
}

function percentDigits(size) {
  if (size >= 0.00005 && size < 0.0005) return 2;
  return size < 0.9995 ? 1 : 0;
}

function count(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: Math.abs(value) < 10 ? 1 : 0 });
}

const FORMATS = {
  ratio: known((value) => `${(value * 100).toFixed(percentDigits(Math.abs(value)))} %`),
  bytes: known((value) => scaled(value, 1024, BYTES)),
  bytes_per_second: known((value) => scaled(value, 1024, RATES)),
  seconds: known(seconds),
  age: known(span),
  count: known(count),
  per_second: known((value) => `${count(value)} /s`),
  text: known(visible),
};

export function formatted(value, unit) {
  return (FORMATS[unit] ?? FORMATS.text)(value);
}

// A name may hold anything. Control characters and those that turn the direction of text become
// visible; all else stays, as text.
export function visible(text) {
  return String(text).replace(
    /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/g,
    "\ufffd",
  );
}

export function clock(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleTimeString("en-GB");
}

export function moment(iso) {
  if (!iso) return NONE;
  const date = new Date(iso);
  const day = date.toLocaleDateString("sv-SE");
  return `${day} ${date.toLocaleTimeString("en-GB")}`;
}

export function since(iso, now) {
  return iso ? span(Math.max(0, (now - Date.parse(iso)) / 1000)) : NONE;
}
