// The last hour of some numbers: what the API had, and what came since, one point a step.

export class History {
  constructor(names) {
    this.names = names;
    this.times = [];
    this.series = Object.fromEntries(names.map((each) => [each, []]));
    this.step = 10;
  }

  // Takes over the part `history` of a document.
  load(history) {
    if (!history) return;
    this.step = history.step_seconds || 10;
    const length = Math.max(0, ...this.names.map((each) => history.series[each]?.length ?? 0));
    this.times = Array.from({ length }, (_, index) => history.begin + index * this.step);
    for (const each of this.names) {
      const values = history.series[each] ?? [];
      this.series[each] = Array.from({ length }, (_, index) => values[index] ?? null);
    }
  }

  // Adds the present values; the newest point moves until its step is over.
  add(seconds, values) {
    const { times, step } = this;
    const last = times.length - 1;
    if (last > 0 && seconds <= times[last - 1]) return;
    const moves = last > 0 && seconds - times[last - 1] < step * 1.05;
    if (last >= 0 && !moves && seconds - times[last] > 3 * step) this.push(times[last] + step, {});
    if (moves) {
      times[last] = seconds;
      for (const each of this.names) this.series[each][last] = values[each] ?? null;
    } else {
      this.push(seconds, values);
    }
    while (times.length && times[0] < seconds - 3600 - step) {
      times.shift();
      for (const each of this.names) this.series[each].shift();
    }
  }

  push(seconds, values) {
    this.times.push(seconds);
    for (const each of this.names) this.series[each].push(values[each] ?? null);
  }
}
