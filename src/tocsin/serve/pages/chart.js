// The charts of one machine: one card per signal, drawn by Plotly, each at most twice a second and only while visible.
// No text from a device reaches Plotly; names are set as text in the card's own header.

import { LANGUAGE, clock, when } from "/clock.js";
import { ANOMALY, Buffer, POINTS_MAX, bandOf, rangeOf, usualStep, withGaps } from "/points.js";

export { LANGUAGE, when };

const DRAW_MS = 500;
const REST_MS = 200;
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const EDGE_PX = 60;
const TICK_PX = 64; // what the text of a tick needs
const CURVES = { beside: { colour: "other", dash: "dash", words: "other machine" }, week: { colour: "week", dash: "dot", words: "a week earlier" } };
const COARSE = matchMedia("(pointer: coarse)");

// How numbers are written at axes: the signs before decimals and between thousands.
const signs = Object.fromEntries(new Intl.NumberFormat(LANGUAGE).formatToParts(1234567.8).map(({ type, value }) => [type, value]));
export const SEPARATORS = `${signs.decimal}${signs.group ?? " "}`;

export function show(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return value.toLocaleString(LANGUAGE, { notation: "compact", maximumSignificantDigits: 4 });
  if (size !== 0 && size < 1e-3) return value.toExponential(2);
  return value.toLocaleString(LANGUAGE, { maximumSignificantDigits: size >= 1000 ? 6 : 4 });
}

export function node(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Returns a choice of a list. */
export function option(value, label) {
  const one = node("option", "", label);
  one.value = value;
  return one;
}

/** Writes a text where another one stands: what is the same is left in peace, for those who mark it or have it read. */
export function write(element, text) { if (element.textContent !== text) element.textContent = text; }

/** Returns a line of a legend: how a curve is drawn, and what it is. */
export function curveOf(colour, dash, text) {
  const item = node("li");
  const swatch = node("i", "swatch");
  swatch.style.borderTop = `2px ${{ dash: "dashed", dot: "dotted" }[dash] ?? "solid"} ${colour}`;
  item.append(swatch, node("span", "", text));
  return item;
}

// Puts elements into this order within their host. The one that has the focus is not taken out, for it would lose it: the others
// go around it.
export function arrange(host, elements) {
  const held = host.contains(document.activeElement) ? document.activeElement : null;
  let next = host.firstChild;
  for (const element of elements) {
    if (element !== next && element.contains(held)) {
      while (next !== element) { const before = next; next = next.nextSibling; host.append(before); }
    }
    if (element === next) next = next.nextSibling; else host.insertBefore(element, next);
  }
}

export class Charts {
  /**
   * @param {import("/together.js").Together} together  the chart of several signals
   * @param {(from: number, to: number) => void} zoomed  called when a person has drawn over a part of a chart
   * @param {(signal: string, wanted: boolean) => void} pick  called when a person wants a signal on the chart of several, or no longer
   */
  constructor(host, together, zoomed, pick) {
    Object.assign(this, { host, together, zoomed, pick });
    this.curves = []; // what charts are compared with
    this.ends = null; // the first and the last moment shown; null if what is newest is shown
    this.cards = new Map(); // by signal
    this.byId = new Map(); // series id to its card
    this.observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const card = this.cards.get(entry.target.dataset.signal);
        if (card) { card.visible = entry.isIntersecting; card.dirty = true; }
      }
    });
    this.names = {}; // what people call signals, and their unit
    this.newest = 0;
    this.restUntil = 0;
    this.machine = null;
    this.asked = null; // signal and moment that an alarm has led to
    this.rings = ""; // the signals of open alarms, as a JSON list
    this.readColours();
    setInterval(() => this.drawNext(), 40);
    new ResizeObserver(() => { for (const card of this.cards.values()) card.dirty = true; }).observe(host);
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(["value", "expected", "band", "mark", "grid", "muted", "panel", "text", "other", "week", "fourth", "fifth", "sixth"].map(
      (name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.repaint();
  }

  repaint() {
    for (const card of this.cards.values()) card.dirty = true;
    this.together.dirty = true;
  }

  /** Draws these curves beside each signal that they have, too: what to call them, how they look, and points by signal. */
  compare(curves) {
    this.curves = curves;
    this.repaint();
  }

  /** Draws these signals on one chart, too. */
  join(signals) {
    this.together.take(signals);
    for (const card of this.cards.values()) card.tick.checked = signals.includes(card.signal);
  }

  // What is not wanted any more goes; the other cards stay where they are, with the focus that one of them may have.
  clear(wanted) {
    for (const [signal, card] of this.cards) {
      card.series = [];
      if (wanted.has(signal)) continue;
      Plotly.purge(card.plot);
      this.observer.unobserve(card.root);
      card.root.remove();
      this.cards.delete(signal);
    }
    this.byId.clear();
    this.newest = 0;
  }

  // Shows a signal at a moment: the card comes into view, with a line there. False if there is no such signal.
  focus(signal, moment) {
    const card = this.cards.get(signal);
    this.asked = card ? { signal, moment } : null;
    this.markAsked();
    if (!card) return false;
    this.reveal(signal);
    return true;
  }

  // Brings the chart of a signal into view.
  reveal(signal) {
    const card = this.cards.get(signal);
    card?.root.scrollIntoView({ block: "nearest" });
    card?.root.focus({ preventScroll: true });
  }

  markAsked() {
    for (const card of this.cards.values()) {
      const here = this.asked?.signal === card.signal;
      card.dirty = true;
      card.root.classList.toggle("asked", here);
      card.moment.textContent = here ? `alarm since ${when(this.asked.moment)}` : "";
    }
  }

  // All series of a machine, as /api/series gives them, for the time between two moments (null: what is newest). What an
  // alarm has led to stays marked on the same machine.
  load(machine, series, ends) {
    this.clear(new Set(machine === this.machine ? series.map((one) => one.signal) : []));
    this.ends = ends;
    if (machine !== this.machine) { this.asked = null; this.curves = []; }
    this.machine = machine;
    for (const one of series) this.add(one, one.points);
    this.sort();
    this.markAsked();
  }

  add(series, points) {
    let entry = this.byId.get(series.id);
    if (!entry) {
      let card = this.cards.get(series.signal);
      const fresh = !card;
      if (fresh) card = this.makeCard(series.signal);
      entry = { card, points: new Buffer(), stream: series.stream };
      card.series.push(entry);
      this.byId.set(series.id, entry);
      if (fresh) this.sort();
    }
    if (!points) return;
    entry.points.add(points);
    entry.card.dirty = this.together.dirty = true;
    const times = entry.points.columns.time;
    if (times.length) this.newest = times[times.length - 1] > this.newest - 3.6e6 ? Math.max(this.newest, times[times.length - 1]) : times[times.length - 1];
  }

  has(id) { return this.byId.has(id); }

  /** Returns the first moment of which a signal's readings are here; Infinity if there are none. */
  oldest(signal) { return Math.min(...(this.cards.get(signal)?.series ?? []).map((one) => one.points.columns.time[0] ?? Infinity)); }

  /** Returns from when to when there are readings; null if there are none. */
  get span() {
    const oldest = Math.min(...[...this.cards.keys()].map((signal) => this.oldest(signal)));
    return oldest < this.newest ? [oldest, this.newest] : null;
  }

  /** Returns what people call a signal, and its unit. */
  calledOf(signal) {
    const { name, unit } = Object.hasOwn(this.names, signal) ? this.names[signal] : {};
    return { name: name || signal, unit: unit ?? "" };
  }

  /** Returns the series of a signal that is drawn; undefined if there is none. */
  mainOf(signal) { const card = this.cards.get(signal); return card && this.main(card); }

  makeCard(signal) {
    const root = node("article", "card");
    root.tabIndex = -1;
    root.setAttribute("aria-label", signal);
    root.dataset.signal = signal;
    const header = node("header");
    const title = node("h3", "", this.calledOf(signal).name);
    title.title = signal;
    const stream = node("span", "stream");
    const moment = node("span", "moment");
    const score = node("span", "score");
    const now = node("span", "now");
    const plot = node("div", "plot");
    const at = node("span", "at");
    const pick = node("label", "pick");
    const tick = node("input");
    tick.type = "checkbox";
    tick.setAttribute("aria-label", `${title.textContent} on the chart of several signals`);
    tick.title = "Draw it on one chart with others";
    tick.checked = this.together.signals.includes(signal);
    tick.addEventListener("change", () => this.pick(signal, tick.checked));
    pick.append(tick);
    const curves = node("ul", "curves");
    header.append(pick, title, stream, moment, score, now);
    root.append(header, curves, plot, at);
    this.host.append(root);
    const card = { root, signal, stream, moment, score, now, tick, curves, plot, at, series: [], dirty: true, visible: false, drawn: 0, revision: 0, hears: false };
    this.cards.set(signal, card);
    this.observer.observe(root);
    return card;
  }

  /** Takes over which signals of the machine have an open alarm. */
  ring(signals) {
    const rings = JSON.stringify([...signals].sort());
    if (rings === this.rings) return;
    this.rings = rings;
    this.sort();
  }

  // Signals with an open alarm come first, then those with anomalies, those with a band, and the others; of these by name.
  sort() {
    const rings = new Set(JSON.parse(this.rings || "[]"));
    const rank = (card) => (rings.has(card.signal) ? 0 : card.series.some((one) => one.points.anomalous) ? 1 : card.series.some((one) => one.points.banded) ? 2 : 3);
    const sorted = [...this.cards].map(([signal, card]) => [signal, card, rank(card)])
      .sort((a, b) => a[2] - b[2] || a[0].localeCompare(b[0], "en", { numeric: true }));
    arrange(this.host, sorted.map(([, card]) => card.root));
  }

  // Nothing is drawn for a moment, while something else on the page moves.
  rest() { this.restUntil = performance.now() + REST_MS; }

  drawNext() {
    const now = performance.now();
    if (document.hidden || now < this.restUntil) return;
    let due = null;
    for (const card of this.cards.values()) {
      if (card.visible && card.dirty && now - card.drawn > DRAW_MS && (!due || card.drawn < due.drawn)) due = card;
    }
    const { together } = this;
    if (together.dirty && !together.root.hidden && now - together.drawn > DRAW_MS && (!due || together.drawn < due.drawn)) together.draw(this, now);
    else if (due) this.draw(due, now);
  }

  // Of several streams with the same signal, the one with a band is drawn, unless it has far fewer points (it was filtered).
  main(card) {
    const most = Math.max(...card.series.map((one) => one.points.length));
    return card.series.find((one) => one.points.banded && one.points.length * 2 >= most) ??
      card.series.find((one) => one.points.length === most);
  }

  draw(card, now) {
    card.dirty = false;
    card.drawn = now;
    const main = this.main(card);
    if (!main || !main.points.length) { Plotly.purge(card.plot); card.hears = false; return; }
    const columns = withGaps(main.points.columns);
    const times = columns.time;
    const marks = this.marks(card, main);
    const last = main.points.length - 1;
    const score = main.points.columns.score[last];
    const { unit } = this.calledOf(card.signal);
    card.now.textContent = [show(main.points.columns.value[last]), unit].filter(Boolean).join(" ");
    card.stream.textContent = main.stream;
    card.score.textContent = score !== null && score >= ANOMALY ? `score ${Math.round(score)}` : "";
    card.root.classList.toggle("hot", score !== null && score >= ANOMALY);
    const c = this.colours;
    const curve = { type: "scatter", mode: "lines", x: times, hoverinfo: "skip" };
    const traces = [
      { ...curve, ...bandOf(times, columns.lower, columns.upper), line: { width: 0 }, fill: "toself", fillcolor: c.band },
      { ...curve, y: columns.expected, line: { color: c.expected, width: 1, dash: "dot" } },
      { ...curve, y: columns.value, line: { color: c.value, width: 1.6 }, hoverinfo: "y", hovertemplate: "%{y:.5~g}<extra></extra>" },
      { type: "scatter", mode: "markers", x: marks.times, y: marks.values, hoverinfo: "skip",
        marker: { color: c.mark, size: 8, symbol: "diamond", line: { color: c.panel, width: 1 } } },
      { ...curve, ...bandOf(times, columns.least, columns.most), line: { width: 0 }, fill: "toself", fillcolor: c.value, opacity: 0.3 },
    ];
    const beside = this.curves.filter((one) => one.bySignal.has(card.signal)).map((one) => ({ ...one, ...CURVES[one.key], columns: withGaps(one.bySignal.get(card.signal).columns) }));
    for (const { columns: { time, value }, colour, dash, words } of beside) {
      traces.push({ ...curve, x: time, y: value, line: { color: c[colour], width: 1.4, dash }, hoverinfo: "y", hovertemplate: `%{y:.5~g}<extra>${words}</extra>` });
    }
    this.tell(card, columns, beside, unit);
    const asked = this.asked?.signal === card.signal ? this.asked.moment : null;
    const [oldest, newest] = this.ends ?? this.newestPart(times, asked);
    const line = asked !== null && asked >= oldest && asked <= newest;
    if (asked !== null) card.moment.textContent = `alarm since ${when(asked)}${line ? "" : ", outside of what is shown here"}`;
    const layout = this.layoutOf(card, [oldest, newest]);
    Object.assign(layout.yaxis, rangeOf(columns, marks.values, ...beside.map((one) => one.columns.value)));
    if (line) layout.shapes = [{ type: "line", x0: asked, x1: asked, yref: "paper", y0: 0, y1: 1, line: { color: c.mark, width: 1.5, dash: "dash" } }];
    Plotly.react(card.plot, traces, layout, this.settings);
    this.hear(card);
  }

  get settings() { return { displayModeBar: false, responsive: false, showTips: false, doubleClick: false }; }

  // How a chart looks between two moments.
  layoutOf(card, [oldest, newest]) {
    const c = this.colours;
    const ticks = clock.ticks(oldest, newest, Math.max(2, Math.floor(card.plot.clientWidth / TICK_PX)));
    const axis = { gridcolor: c.grid, zeroline: false, linecolor: c.grid, tickcolor: c.grid, tickfont: { color: c.muted, size: 10 }, fixedrange: true };
    return {
      datarevision: ++card.revision,
      width: card.plot.clientWidth,
      height: card.plot.clientHeight,
      margin: { l: 46, r: 12, t: 6, b: 24 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: false,
      separators: SEPARATORS,
      hovermode: "x",
      dragmode: COARSE.matches ? false : "zoom", // a finger on a chart scrolls the page
      hoverlabel: { bgcolor: c.panel, bordercolor: c.grid, font: { color: c.text, size: 11 } },
      // Numbers, not dates: Plotly knows the browser's zone only, and no hour that comes twice.
      xaxis: { ...axis, fixedrange: false, range: [oldest, newest], tickmode: "array", tickvals: ticks.moments, ticktext: ticks.texts, tickangle: 0 },
      yaxis: { ...axis, nticks: 5 },
      shapes: [],
    };
  }

  // What a signal is compared with, in words: how each curve is drawn, and its mean.
  tell(card, columns, beside, unit) {
    const mean = ({ value }) => { const there = value.filter((one) => one !== null); return [show(there.reduce((sum, one) => sum + one, 0) / there.length), unit].filter(Boolean).join(" "); };
    const told = beside.length ? [{ name: "here", colour: "value", dash: "solid", columns }, ...beside] : [];
    card.curves.replaceChildren(...told.map((one) => curveOf(this.colours[one.colour], one.dash, `${one.name}: mean ${mean(one.columns)}`)));
  }

  // The newest readings: as many as are kept, or ten minutes where they come faster than once a second.
  newestPart(times, asked) {
    const newest = Math.max(this.newest, times[0] + 30 * SECOND_MS);
    const usual = Math.max(times[0], newest - POINTS_MAX * Math.max(SECOND_MS, usualStep(times)));
    return [asked === null ? usual : Math.min(usual, Math.max(times[0], asked - MINUTE_MS)), newest];
  }

  // Zooming into one chart zooms into all. Which moment a pointer is at stands under the curve.
  hear(card) {
    if (card.hears) return;
    card.hears = true;
    card.plot.on("plotly_relayout", (changed) => {
      const [from, to] = [0, 1].map((i) => Number(changed[`xaxis.range[${i}]`]));
      if (from < to) this.zoomed(from, to);
    });
    card.plot.on("plotly_hover", ({ points: [{ x, bbox }] }) => {
      card.at.textContent = when(x);
      card.at.style.left = `${Math.min(Math.max((bbox.x0 + bbox.x1) / 2, EDGE_PX), card.plot.clientWidth - EDGE_PX)}px`;
    });
    card.plot.on("plotly_unhover", () => { card.at.textContent = ""; });
  }

  // Readings whose score says anomaly, in the stream that is drawn and in those filtered from it.
  marks(card, main) {
    const marked = new Map();
    for (const one of card.series) {
      const filtered = one !== main && one.points.length * 5 <= main.points.length;
      const { time, value, score } = one.points.columns;
      for (let i = 0; i < time.length; i++) {
        if (score[i] !== null && (score[i] >= ANOMALY || filtered)) marked.set(time[i], value[i]);
      }
    }
    return { times: [...marked.keys()], values: [...marked.values()] };
  }
}
