// Several signals of a machine on one chart. Those with the same unit share an axis, any other has one of its own: the first two
// are written beside the chart, and of each signal the list above says from where to where it goes.
import { curveOf, show } from "/chart.js";
import { rangeOf, withGaps } from "/points.js";

const DASHES = ["solid", "dash", "dot"]; // nobody has to tell curves apart by their colour alone
const COLOURS = ["value", "other", "week", "fourth", "fifth", "sixth"];

export class Together {
  constructor(root) {
    this.root = root;
    [this.list, this.plot, this.at] = ["ul", ".plot", ".at"].map((part) => root.querySelector(part));
    this.signals = [];
    Object.assign(this, { dirty: false, visible: true, drawn: 0, revision: 0, hears: false });
  }

  take(signals) {
    this.signals = signals;
    this.root.hidden = !signals.length;
    this.dirty = true;
  }

  /** Draws those of the signals that are there. */
  draw(charts, now) {
    Object.assign(this, { dirty: false, drawn: now });
    const entries = this.signals.map((signal) => ({ signal, main: charts.mainOf(signal), ...charts.calledOf(signal) })).filter(({ main }) => main?.points.length);
    if (this.root.hidden || !entries.length) { this.list.replaceChildren(); Plotly.purge(this.plot); this.hears = false; return; }
    const axes = new Map();
    entries.forEach((one, i) => {
      const columns = withGaps(one.main.points.columns);
      const values = columns.value.filter((value) => value !== null);
      Object.assign(one, { columns, colour: charts.colours[COLOURS[i]], dash: DASHES[i % DASHES.length], least: Math.min(...values), most: Math.max(...values) });
      const of = one.unit || one.signal;
      if (!axes.has(of)) axes.set(of, []);
      axes.get(of).push(one);
    });
    const numbered = [...axes.values()];
    const traces = numbered.flatMap((ones, a) => ones.map(({ columns, colour, dash }) => ({
      type: "scatter", mode: "lines", x: columns.time, y: columns.value, yaxis: a ? `y${a + 1}` : "y", line: { color: colour, width: 1.6, dash },
      hoverinfo: "y", hovertemplate: "%{y:.5~g}<extra></extra>",
    })));
    const longest = entries.reduce((a, b) => (b.columns.time.length > a.columns.time.length ? b : a));
    const layout = charts.layoutOf(this, charts.ends ?? charts.newestPart(longest.columns.time, null));
    numbered.forEach((ones, a) => { layout[a ? `yaxis${a + 1}` : "yaxis"] = axisOf(layout.yaxis, ones, a, charts.colours); });
    if (numbered.length > 1) layout.margin.r = layout.margin.l;
    Plotly.react(this.plot, traces, layout, charts.settings);
    charts.hear(this);
    this.tell(entries);
  }

  tell(entries) {
    this.list.replaceChildren(...entries.map(({ name, unit, least, most, colour, dash }) => curveOf(colour, dash, `${name}: ${[show(least), "to", show(most), unit].filter(Boolean).join(" ")}`)));
  }
}

function axisOf(usual, ones, number, colours) {
  const side = number === 1 ? "right" : "left";
  const many = { value: ones.flatMap(({ columns }) => columns.value), least: [], most: [], lower: [], upper: [] };
  const colour = ones.length === 1 ? ones[0].colour : colours.muted;
  return { ...usual, ...rangeOf(many, []), side, tickmode: "auto", showgrid: number === 0, showticklabels: number < 2, tickfont: { ...usual.tickfont, color: colour }, ...(number ? { overlaying: "y" } : {}) };
}
