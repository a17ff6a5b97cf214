// Points of a series in columns, and what is drawn of them.
import { SCHEMAS, SEVERITIES } from "/words.js";

export const POINTS_MAX = 600;
export const ANOMALY = SEVERITIES.at(-1).least;
const COLUMNS = Object.keys(SCHEMAS.Points.properties);
const noPoints = () => Object.fromEntries(COLUMNS.map((name) => [name, []]));

// Points in columns, oldest first, one for each time.
export class Buffer {
  constructor() { this.columns = noPoints(); }
  get length() { return this.columns.time.length; }
  get banded() { return this.columns.expected.some((v) => v !== null) || this.columns.upper.some((v) => v !== null); }
  get anomalous() { return this.columns.score.some((score) => score >= ANOMALY); }

  /** @param {import("/wire.js").Points} points */
  add(points) {
    const times = points.time;
    if (!times.length) return;
    if (this.length && times[times.length - 1] < this.columns.time[0]) this.columns = noPoints();
    const own = this.columns.time;
    for (let i = 0; i < times.length; i++) {
      let at = own.length;
      while (at > 0 && own[at - 1] > times[i]) at--;
      const again = at > 0 && own[at - 1] === times[i] ? 1 : 0;
      for (const name of COLUMNS) this.columns[name].splice(at - again, again, points[name]?.length ? points[name][i] : null);
    }
    if (own.length > POINTS_MAX + 60) for (const column of Object.values(this.columns)) column.splice(0, column.length - POINTS_MAX);
  }
}

// A band learned from few readings can be very wide: the axis follows the readings, and the band no further than
// their own span beyond them.
export function rangeOf(columns, ...more) {
  let [low, high] = [Infinity, -Infinity];
  for (const column of [columns.value, columns.least, columns.most, ...more]) for (const v of column) if (v !== null) { if (v < low) low = v; if (v > high) high = v; }
  if (!(low <= high)) return { autorange: true };
  const span = high - low || Math.abs(high) * 0.1 || 1;
  let [bottom, top] = [low, high];
  for (const v of columns.lower) if (v !== null && v < bottom) bottom = Math.max(v, low - span);
  for (const v of columns.upper) if (v !== null && v > top) top = Math.min(v, high + span);
  const short = Math.max(span * 0.1 - (top - bottom), 0) / 2; // a constant gets some room
  const pad = (top - bottom) * 0.08 + short;
  return { range: [bottom - pad, top + pad], tickformat: Math.max(Math.abs(bottom), Math.abs(top)) >= 1e4 ? "~s" : ".4~g" };
}

// The band as closed outlines, one for each stretch in which it is known.
export function bandOf(times, lower, upper) {
  const [x, y] = [[], []];
  for (let i = 0; i < times.length; i++) {
    const from = i;
    while (i < times.length && lower[i] !== null && upper[i] !== null) i++;
    if (i === from) continue;
    if (x.length) { x.push(null); y.push(null); }
    for (let j = from; j < i; j++) { x.push(times[j]); y.push(upper[j]); }
    for (let j = i - 1; j >= from; j--) { x.push(times[j]); y.push(lower[j]); }
  }
  return { x, y };
}

const stepsOf = (times) => times.slice(1).map((t, i) => t - times[i]);
export const usualStep = (times) => stepsOf(times).sort((a, b) => a - b)[(times.length - 1) >> 1] ?? 0;

// Breaks the line where nothing was heard for much longer than usual.
export function withGaps(columns) {
  const times = columns.time;
  if (times.length < 4) return columns;
  const steps = stepsOf(times);
  const usual = usualStep(times);
  const limit = Math.max(usual * 6, 1000);
  if (!steps.some((step) => step > limit)) return columns;
  const made = noPoints();
  for (let i = 0; i < times.length; i++) {
    if (i && steps[i - 1] > limit) for (const name of COLUMNS) made[name].push(name === "time" ? times[i - 1] + usual : null);
    for (const name of COLUMNS) made[name].push(columns[name][i]);
  }
  return made;
}
