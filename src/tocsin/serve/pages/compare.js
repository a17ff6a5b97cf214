// What the charts of a machine are compared with: the same time a week earlier, the same signals of another machine; and which
// of its signals are drawn on one chart. It stands in the address bar, so that a link shows it.
import { option, write } from "/chart.js";
import { clock } from "/clock.js";
import { Buffer } from "/points.js";

const SIGNALS_MAX = 6; // more curves on one chart nobody can tell apart
const WEEK_DAYS = 7;
const AHEAD_MS = 300_000; // live goes on over what was a week earlier
const LIVE_MS = 15_000;
const get = (id) => document.getElementById(id);

export class Compare {
  // `load` asks for series, `machines` gives the machines, `called` says what people call one, `changed` is called when a person
  // has chosen otherwise, `show` when there are other curves to draw, and `join` with the signals for one chart.
  constructor({ load, machines, called, changed, show, join, toast }) {
    Object.assign(this, { load, machines, called, changed, show, join, toast });
    this.signals = [];
    this.beside = ""; // another machine
    this.week = false;
    this.machine = null; // whose charts are shown
    this.ends = null;
    this.span = () => null; // from when to when they are, live
    this.asked = 0;
    this.shown = false;
    get("week").addEventListener("click", () => this.choose({ week: !this.week }));
    get("apart").addEventListener("click", () => { this.choose({ signals: [] }); get("week").focus(); });
    get("beside").addEventListener("focus", () => this.offer());
    get("beside").addEventListener("input", () => { const name = this.named(get("beside").value); if (name !== undefined) this.choose({ beside: name }); });
    get("beside").addEventListener("change", () => this.settle());
    setInterval(() => { if (!this.ends && !document.hidden) this.refresh(); }, LIVE_MS);
  }

  /** Takes over what the address bar says. */
  read(said) {
    Object.assign(this, { signals: said.getAll("signal").slice(0, SIGNALS_MAX), beside: said.get("beside") ?? "", week: said.get("earlier") === "week" });
    this.paint();
  }

  write(said) {
    for (const signal of this.signals) said.append("signal", signal);
    if (this.beside) said.set("beside", this.beside);
    if (this.week) said.set("earlier", "week");
  }

  get state() { return [this.signals, this.beside, this.week]; }

  choose(chosen) {
    Object.assign(this, chosen);
    this.paint();
    this.changed();
    if (chosen.signals) this.join(this.signals); else this.refresh();
  }

  /** Puts a signal on the one chart, or takes it off. */
  pick(signal, wanted) {
    const others = this.signals.filter((one) => one !== signal);
    if (wanted && others.length === SIGNALS_MAX) this.toast(`At most ${SIGNALS_MAX} signals are drawn on one chart.`);
    this.choose({ signals: wanted && others.length < SIGNALS_MAX ? [...others, signal] : others });
  }

  /** Compares the charts of a machine, from one moment to another; where these are null it is live, and `span` says them. */
  take(machine, ends, span) {
    Object.assign(this, { machine, ends, span });
    this.paint();
    this.join(this.signals);
    this.refresh();
  }

  paint() {
    get("week").setAttribute("aria-pressed", String(this.week));
    if (document.activeElement !== get("beside")) get("beside").value = this.beside && this.called(this.beside);
    get("apart").hidden = !this.signals.length;
    get("apart").textContent = `${this.signals.length} on one chart ×`;
    get("tick").hidden = this.signals.length > 0;
  }

  // The machines to choose from, when somebody is about to.
  offer() {
    get("machines").replaceChildren(...[...this.machines()].filter((name) => name !== this.machine).map((name) => option(this.called(name))));
  }

  // The machine that goes by a text; none for an empty one, undefined if there is none.
  named(text) {
    if (!text.trim()) return "";
    for (const name of this.machines()) if (name === text || this.called(name) === text) return name;
    return undefined;
  }

  settle() {
    const text = get("beside").value;
    if (this.named(text) === undefined) { this.toast(`There is no machine '${text}'.`); get("beside").value = this.beside && this.called(this.beside); }
  }

  async refresh() {
    const mine = ++this.asked;
    const { machine, beside, week, ends } = this;
    const [from, to] = ends ?? this.span() ?? [0, 0];
    const earlier = [clock.later(from, -WEEK_DAYS), clock.later(ends ? to : to + AHEAD_MS, -WEEK_DAYS)];
    const wanted = to > from ? [
      beside && beside !== machine && { key: "beside", name: this.called(beside), asked: `machine=${encodeURIComponent(beside)}${ends ? rangeOf(ends) : ""}`, days: 0 },
      week && { key: "week", name: "a week earlier", asked: `machine=${encodeURIComponent(machine)}${rangeOf(earlier)}`, days: WEEK_DAYS },
    ].filter(Boolean) : [];
    if (!wanted.length) { this.say([]); if (this.shown) this.show([]); this.shown = false; return; }
    const curves = await Promise.all(wanted.map(async (one) => {
      const told = await this.load(one.asked);
      return { ...one, bySignal: bySignal(told?.series ?? [], one.days) };
    }));
    if (mine !== this.asked) return;
    this.say(curves.filter((one) => !one.bySignal.size));
    this.show(curves);
    this.shown = true;
  }

  say(missing) {
    write(get("compare-said"), missing.map(({ key, name }) => (key === "week" ? "Nothing is kept of a week earlier." : `No readings of ${name} at this time.`)).join(" "));
  }
}

const rangeOf = ([from, to]) => `&from=${Math.round(from)}&to=${Math.round(to)}`;

// Of several streams with the same signal the one with the most points; moved on by so many days.
function bySignal(series, days) {
  const all = new Map();
  for (const { signal, points } of series) {
    if (!points.time.length || points.time.length <= (all.get(signal)?.length ?? 0)) continue;
    const buffer = new Buffer();
    buffer.add(days ? { ...points, time: points.time.map((at) => clock.later(at, days)) } : points);
    all.set(signal, buffer);
  }
  return all;
}
