// Moments as the plant's clocks show them, in the browser's language; and the ticks of an axis of time. Moments are milliseconds
// since 1970, wherever they go: only what a person reads or writes is by the clock.

// The browser's language, in which numbers and dates are written; hours always from 0 to 23, as plants have them.
export const LANGUAGE = navigator.language;

const DECIMAL = new Intl.NumberFormat(LANGUAGE).formatToParts(1.5).find(({ type }) => type === "decimal").value;

const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
const QUARTER_MS = 15 * MINUTE_MS; // offsets change at its multiples, and are such
const OFFSETS_MAX = 10_000;
const THURSDAYS_MS = 4 * DAY_MS; // from the first day of 1970 to a Monday
const STEPS = [
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500], ...[1, 2, 5, 10, 15, 30].map((n) => n * SECOND_MS), ...[1, 2, 5, 10, 15, 30].map((n) => n * MINUTE_MS),
  ...[1, 2, 3, 6, 12].map((n) => n * HOUR_MS), ...[1, 2, 7, 14].map((n) => n * DAY_MS),
];
const MONTHS = [1, 2, 3, 6, 12, 24, 60, 120, 600];
const TWO = "2-digit";

export class Clock {
  constructor() { this.take(""); }

  /** Takes over the plant's zone; where it names none, or one that the browser does not know, the browser's own. */
  take(zone) {
    this.zone = new Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (knows(zone)) this.zone = zone;
    const formed = (parts) => new Intl.DateTimeFormat(LANGUAGE, { timeZone: this.zone, hourCycle: "h23", ...parts });
    this.second = formed({ hour: TWO, minute: TWO, second: TWO });
    this.minute = formed({ hour: TWO, minute: TWO });
    this.fraction = formed({ minute: TWO, second: TWO, fractionalSecondDigits: 3 });
    this.day = formed({ day: "numeric", month: "short", year: "numeric" });
    this.dayOfYear = formed({ day: "numeric", month: "short" });
    this.month = formed({ month: "short", year: "numeric" });
    this.whole = formed({ dateStyle: "full", timeStyle: "long" });
    this.numbers = new Intl.DateTimeFormat("en-US", { timeZone: this.zone, hourCycle: "h23", year: "numeric", month: TWO, day: TWO, hour: TWO, minute: TWO, second: TWO });
    this.offsets = new Map(); // by quarter of an hour
  }

  /** Returns by how much the clock is ahead of UTC. */
  offset(moment) {
    const quarter = Math.floor(moment / QUARTER_MS);
    let offset = this.offsets.get(quarter);
    if (offset === undefined) {
      const at = Object.fromEntries(this.numbers.formatToParts(quarter * QUARTER_MS).map(({ type, value }) => [type, Number(value)]));
      offset = Date.UTC(at.year, at.month - 1, at.day, at.hour, at.minute, at.second) - quarter * QUARTER_MS;
      if (this.offsets.size > OFFSETS_MAX) this.offsets.clear();
      this.offsets.set(quarter, offset);
    }
    return offset;
  }

  /** Returns what the clock shows, as the moment at which a clock in UTC shows it. */
  wall(moment) { return moment + this.offset(moment); }

  /** Returns the reverse of `wall`: the first such moment where the clock is set back, the next one where it skips an hour. */
  moment(wall) {
    const [before, after] = [wall - DAY_MS, wall + DAY_MS].map((at) => this.offset(at));
    const first = wall - before;
    return this.wall(first) === wall ? first : this.wall(wall - after) === wall ? wall - after : first;
  }

  /** Returns the moment so many days later by the clock: at the same hour, though a day may have 23 or 25 of them. */
  later(moment, days) { return this.moment(this.wall(moment) + days * DAY_MS); }

  /** Returns a moment as an input of date and time takes it. */
  written(moment) { return new Date(this.wall(moment)).toISOString().slice(0, 16); }

  /** Returns the moment that an input of date and time holds; NaN if it holds none. */
  read(text) {
    const wall = Date.parse(`${text}Z`);
    return Number.isNaN(wall) ? NaN : this.moment(wall);
  }

  /** Returns a moment as people say it: the time, with the date if it is not today. */
  when(moment) {
    const at = new Date(moment);
    const date = this.day.format(at);
    return date === this.day.format(new Date()) ? this.second.format(at) : `${date} ${this.second.format(at)}`;
  }

  /**
   * Returns a sentence of the engine's as people here write it: with its moments, which are in UTC there, by this clock, and
   * with the numbers of its reason, at its end, in the browser's language (a name before that is left as it is). Where each row
   * names its signal the reason says "value", for which the `signal` stands.
   */
  worded(text, why = "", signal = "") {
    const reason = why && text.endsWith(why) ? why : "";
    const about = signal ? reason.replace(/^value(?= )/, () => signal) : reason;
    const local = about.replace(/(?<![\w.:])\d+\.\d+(?![\w.:])/g, (number) => number.replace(".", DECIMAL));
    return (text.slice(0, text.length - reason.length) + local).replace(/(\d\d:\d\d:\d\d) on (\d{4}-\d\d-\d\d) \(UTC\)/g, (_, time, day) => this.when(`${day}T${time}Z`));
  }

  /** Returns the ticks of an axis of time, `most` at most: moments, and how they are written. */
  ticks(from, to, most) {
    const step = STEPS.find((one) => (to - from) / one <= most);
    const moments = (step === undefined ? this.months(from, to, most) : step <= QUARTER_MS ? multiples(from, to, step) : this.hours(from, to, step))
      .filter((at, i, all) => at >= from && at <= to && at !== all[i - 1]);
    const text = step === undefined ? this.month : step >= DAY_MS ? this.dayOfYear : step >= MINUTE_MS ? this.minute : step >= SECOND_MS ? this.second : this.fraction;
    const midnight = (at) => step >= MINUTE_MS && step < DAY_MS && this.wall(at) % DAY_MS === 0; // where a day begins its date says more
    return { moments, texts: moments.map((at) => (midnight(at) ? this.dayOfYear : text).format(at)) };
  }

  hours(from, to, step) {
    const shift = step % (7 * DAY_MS) === 0 ? THURSDAYS_MS : 0; // weeks begin on Mondays
    const walls = multiples(this.wall(from) - DAY_MS - shift, this.wall(to) + DAY_MS - shift, step).map((wall) => wall + shift);
    return walls.map((wall) => [wall, this.moment(wall)]).filter(([wall, at]) => this.wall(at) === wall).map(([, at]) => at); // not in an hour that is skipped
  }

  months(from, to, most) {
    const months = (moment) => { const at = new Date(this.wall(moment)); return 12 * at.getUTCFullYear() + at.getUTCMonth(); };
    const [first, last] = [months(from), months(to)];
    const step = MONTHS.find((one) => (last - first) / one <= most) ?? MONTHS.at(-1);
    return multiples(first, last, step).map((month) => this.moment(Date.UTC(Math.floor(month / 12), month % 12)));
  }
}

function knows(zone) {
  try { return Boolean(zone && new Intl.DateTimeFormat("en", { timeZone: zone })); } catch { return false; }
}

function multiples(from, to, step) {
  const all = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) all.push(at);
  return all;
}

export const clock = new Clock();
export const when = (moment) => clock.when(moment);
