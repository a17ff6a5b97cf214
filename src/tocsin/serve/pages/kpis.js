// Key figures of the alarm system, beside what ISA-18.2 (2016, table 7) and EEMUA 191 hold for manageable.
import { node, show, when } from "/chart.js";

const REFRESH_MS = 60000;
const NAMED_MAX = 10;

export class Kpis {
  // `load` gets the figures from the server; null if there are none.
  constructor(host, load) {
    Object.assign(this, { host, load });
    this.body = host.querySelector(".body");
    host.addEventListener("toggle", () => this.refresh());
    setInterval(() => this.refresh(), REFRESH_MS);
  }

  async refresh() {
    if (!this.host.open || document.hidden) return;
    const told = await this.load();
    if (told) this.show(told);
  }

  /** @param {import("/wire.js").KeyFigures} told */
  show(told) {
    if (!told.from) { this.body.replaceChildren(node("p", "note", "The tables hold no alarm yet.")); return; }
    const ten = told.most_frequent.reduce((sum, one) => sum + one.raised, 0);
    const table = node("table", "figures-table");
    const head = node("tr");
    for (const text of ["Key figure", "now", "manageable"]) { const cell = node("th", "", text); cell.scope = "col"; head.append(cell); }
    table.append(head, ...[
      ["Alarms per 10 minutes, mean", show(told.per_ten_minutes_mean), "1 to 2", told.per_ten_minutes_mean > 2],
      ["Alarms per 10 minutes, most", show(told.per_ten_minutes_max), "at most 10", told.per_ten_minutes_max > 10],
      ["Time in flood", `${show(told.flood_percent_of_time)} % (${told.floods})`, "under 1 %", told.flood_percent_of_time >= 1],
      ["Chattering", show(told.chattering.length), "none", told.chattering.length > 0],
      ["Stale: active for a day", show(told.stale.length), "under 5", told.stale.length >= 5],
      ["Share of the ten most frequent", told.raised ? `${Math.round(100 * ten / told.raised)} %` : "–", "under 5 %", false],
      ["Raised, of these silent", `${show(told.raised)}, ${show(told.silent)}`, "", false],
      ["By severity", Object.entries(told.by_severity).map(([name, count]) => `${name} ${show(count)}`).join(", "), "", false],
    ].map(([name, now, manageable, over]) => {
      const row = node("tr", over ? "over" : "");
      const cell = node("th", "", name);
      cell.scope = "row";
      row.append(cell, node("td", "", over ? `${now} ▲` : now), node("td", "", manageable));
      return row;
    }));
    this.body.replaceChildren(
      node("p", "note", `From ${when(told.from)} to ${when(told.until)}.`), table,
      ...named("Most frequent", told.most_frequent.map((one) => `${one.alarm}: ${one.raised}`)),
      ...named("Chattering: raised three times within a minute", told.chattering),
      ...named("Stale: active for a day", told.stale),
    );
  }
}

function named(title, names) {
  if (!names.length) return [];
  const list = node("ol");
  list.append(...names.slice(0, NAMED_MAX).map((name) => node("li", "", name)));
  if (names.length > NAMED_MAX) list.append(node("li", "", `and ${names.length - NAMED_MAX} more`));
  return [node("h3", "", title), list];
}
