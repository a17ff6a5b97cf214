// The charts of one machine: one card per signal, drawn by Plotly, each at most twice a second and only while visible.
// No text from a device reaches Plotly; names are set as text in the card's own header.

const POINTS_MAX = 600;
const DRAW_MS = 500;
const ANOMALY = 75;
const [TIME, VALUE, EXPECTED, LOWER, UPPER, SCORE] = [0, 1, 2, 3, 4, 5];

export function show(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 4 });
  if (size !== 0 && size < 1e-3) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: size >= 1000 ? 6 : 4 });
}

export function node(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Points in columns, oldest first, one for each time.
class Points {
  constructor() { this.columns = [[], [], [], [], [], []]; }
  get length() { return this.columns[TIME].length; }
  get banded() { return this.columns[EXPECTED].some((v) => v !== null) || this.columns[UPPER].some((v) => v !== null); }
  get anomalous() { return this.columns[SCORE].some((score) => score >= ANOMALY); }

  add(packed) {
    const times = packed[TIME];
    if (!times.length) return;
    if (this.length && times[times.length - 1] < this.columns[TIME][0]) this.columns = [[], [], [], [], [], []];
    const own = this.columns[TIME];
    for (let i = 0; i < times.length; i++) {
      let at = own.length;
      while (at > 0 && own[at - 1] > times[i]) at--;
      const again = at > 0 && own[at - 1] === times[i] ? 1 : 0;
      for (let c = 0; c < 6; c++) this.columns[c].splice(at - again, again, packed[c].length ? packed[c][i] : null);
    }
    if (own.length > POINTS_MAX + 60) for (const column of this.columns) column.splice(0, column.length - POINTS_MAX);
  }
}

export class Charts {
  constructor(host) {
    this.host = host;
    this.cards = new Map(); // by signal
    this.byId = new Map(); // series id to its card
    this.observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const card = this.cards.get(entry.target.dataset.signal);
        if (card) { card.visible = entry.isIntersecting; card.dirty = true; }
      }
    });
    this.newest = 0;
    this.readColours();
    setInterval(() => this.drawNext(), 40);
    new ResizeObserver(() => { for (const card of this.cards.values()) card.dirty = true; }).observe(host);
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(["value", "expected", "band", "mark", "grid", "muted", "panel", "text"].map(
      (name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    for (const card of this.cards.values()) card.dirty = true;
  }

  clear() {
    for (const card of this.cards.values()) { Plotly.purge(card.plot); this.observer.unobserve(card.root); card.root.remove(); }
    this.cards.clear();
    this.byId.clear();
    this.newest = 0;
  }

  // All series of a machine, as /api/series gives them.
  load(series) {
    this.clear();
    for (const one of series) this.add(one, one.points);
    this.sort();
  }

  add(series, packed) {
    let entry = this.byId.get(series.id);
    if (!entry) {
      let card = this.cards.get(series.signal);
      const fresh = !card;
      if (fresh) card = this.makeCard(series.signal);
      entry = { card, points: new Points(), stream: series.stream };
      card.series.push(entry);
      this.byId.set(series.id, entry);
      if (fresh) this.sort();
    }
    if (!packed) return;
    entry.points.add(packed);
    entry.card.dirty = true;
    const times = entry.points.columns[TIME];
    if (times.length) this.newest = times[times.length - 1] > this.newest - 3.6e6 ? Math.max(this.newest, times[times.length - 1]) : times[times.length - 1];
  }

  has(id) { return this.byId.has(id); }

  makeCard(signal) {
    const root = node("article", "card");
    root.dataset.signal = signal;
    const header = node("header");
    const title = node("h3", "", signal);
    title.title = signal;
    const stream = node("span", "stream");
    const score = node("span", "score");
    const now = node("span", "now");
    const plot = node("div", "plot");
    header.append(title, stream, score, now);
    root.append(header, plot);
    this.host.append(root);
    const card = { root, stream, score, now, plot, series: [], dirty: true, visible: false, drawn: 0, revision: 0 };
    this.cards.set(signal, card);
    this.observer.observe(root);
    return card;
  }

  // Signals with anomalies come first, then those with a band, then by name.
  sort() {
    const rank = (card) => (card.series.some((one) => one.points.anomalous) ? 0 : card.series.some((one) => one.points.banded) ? 1 : 2);
    const sorted = [...this.cards].map(([signal, card]) => [signal, card, rank(card)])
      .sort((a, b) => a[2] - b[2] || a[0].localeCompare(b[0], "en", { numeric: true }));
    if (sorted.every(([, card], i) => this.host.children[i] === card.root)) return;
    for (const [, card] of sorted) this.host.append(card.root);
  }

  drawNext() {
    if (document.hidden) return;
    const now = performance.now();
    let due = null;
    for (const card of this.cards.values()) {
      if (card.visible && card.dirty && now - card.drawn > DRAW_MS && (!due || card.drawn < due.drawn)) due = card;
    }
    if (due) this.draw(due, now);
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
    if (!main || !main.points.length) return;
    const shift = -new Date(main.points.columns[TIME][0]).getTimezoneOffset() * 60000;
    const columns = withGaps(main.points.columns);
    const times = columns[TIME].map((t) => t + shift);
    const marks = this.marks(card, main);
    const last = main.points.length - 1;
    const score = main.points.columns[SCORE][last];
    card.now.textContent = show(main.points.columns[VALUE][last]);
    card.stream.textContent = main.stream;
    card.score.textContent = score !== null && score >= ANOMALY ? `score ${Math.round(score)}` : "";
    card.root.classList.toggle("hot", score !== null && score >= ANOMALY);
    const c = this.colours;
    const line = { type: "scatter", mode: "lines", x: times, hoverinfo: "skip" };
    const traces = [
      { ...line, ...bandOf(times, columns), line: { width: 0 }, fill: "toself", fillcolor: c.band },
      { ...line, y: columns[EXPECTED], line: { color: c.expected, width: 1, dash: "dot" } },
      { ...line, y: columns[VALUE], line: { color: c.value, width: 1.6 }, hoverinfo: undefined, hovertemplate: "%{y:.5~g}<extra></extra>" },
      { type: "scatter", mode: "markers", x: marks.times.map((t) => t + shift), y: marks.values, hoverinfo: "skip",
        marker: { color: c.mark, size: 8, symbol: "diamond", line: { color: c.panel, width: 1 } } },
    ];
    const newest = this.newest + shift;
    const oldest = Math.max(times[0], newest - POINTS_MAX * 1000);
    const axis = { gridcolor: c.grid, zeroline: false, linecolor: c.grid, tickcolor: c.grid, tickfont: { color: c.muted, size: 10 }, fixedrange: true };
    Plotly.react(card.plot, traces, {
      datarevision: ++card.revision,
      width: card.plot.clientWidth,
      height: card.plot.clientHeight,
      margin: { l: 46, r: 12, t: 6, b: 24 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: false,
      hovermode: "x",
      dragmode: false,
      hoverlabel: { bgcolor: c.panel, bordercolor: c.grid, font: { color: c.text, size: 11 } },
      xaxis: { ...axis, type: "date", range: [oldest, Math.max(newest, oldest + 30000)], nticks: 6, tickformatstops: [
        { dtickrange: [null, 59999], value: "%H:%M:%S" }, { dtickrange: [60000, 86399999], value: "%H:%M" }, { dtickrange: [86400000, null], value: "%d %b" }] },
      yaxis: { ...axis, nticks: 5, ...rangeOf(columns, marks.values) },
    }, { displayModeBar: false, responsive: false, showTips: false, doubleClick: false });
  }

  // Readings whose score says anomaly, in the stream that is drawn and in those filtered from it.
  marks(card, main) {
    const found = new Map();
    for (const one of card.series) {
      const filtered = one !== main && one.points.length * 5 <= main.points.length;
      const [times, values, , , , scores] = one.points.columns;
      for (let i = 0; i < times.length; i++) {
        if (scores[i] !== null && (scores[i] >= ANOMALY || filtered)) found.set(times[i], values[i]);
      }
    }
    return { times: [...found.keys()], values: [...found.values()] };
  }
}

// A band learned from few readings can be very wide: the axis follows the readings, and the band no further than
// their own span beyond them.
function rangeOf(columns, marks) {
  let [low, high] = [Infinity, -Infinity];
  for (const column of [columns[VALUE], marks]) for (const v of column) if (v !== null) { if (v < low) low = v; if (v > high) high = v; }
  if (!(low <= high)) return { autorange: true };
  const span = high - low || Math.abs(high) * 0.1 || 1;
  let [bottom, top] = [low, high];
  for (const v of columns[LOWER]) if (v !== null && v < bottom) bottom = Math.max(v, low - span);
  for (const v of columns[UPPER]) if (v !== null && v > top) top = Math.min(v, high + span);
  const short = Math.max(span * 0.1 - (top - bottom), 0) / 2; // a constant gets some room
  const pad = (top - bottom) * 0.08 + short;
  return { range: [bottom - pad, top + pad], tickformat: Math.max(Math.abs(bottom), Math.abs(top)) >= 1e4 ? "~s" : ".4~g" };
}

// The band as closed outlines, one for each stretch in which it is known.
function bandOf(times, columns) {
  const [x, y] = [[], []];
  for (let i = 0; i < times.length; i++) {
    const from = i;
    while (i < times.length && columns[LOWER][i] !== null && columns[UPPER][i] !== null) i++;
    if (i === from) continue;
    if (x.length) { x.push(null); y.push(null); }
    for (let j = from; j < i; j++) { x.push(times[j]); y.push(columns[UPPER][j]); }
    for (let j = i - 1; j >= from; j--) { x.push(times[j]); y.push(columns[LOWER][j]); }
  }
  return { x, y };
}

// Breaks the line where nothing was heard for much longer than usual.
function withGaps(columns) {
  const times = columns[TIME];
  if (times.length < 4) return columns;
  const steps = times.slice(1).map((t, i) => t - times[i]);
  const usual = [...steps].sort((a, b) => a - b)[steps.length >> 1];
  const limit = Math.max(usual * 6, 1000);
  if (!steps.some((step) => step > limit)) return columns;
  const made = columns.map(() => []);
  for (let i = 0; i < times.length; i++) {
    if (i && steps[i - 1] > limit) made.forEach((column, c) => column.push(c === TIME ? times[i - 1] + usual : null));
    made.forEach((column, c) => column.push(columns[c][i]));
  }
  return made;
}
