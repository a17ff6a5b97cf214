// Who may what, for admins: accounts, tokens and the audit, with whether its chain holds. It changes nothing.
import { node, when } from "/chart.js";
import { worded } from "/wire.js";

const get = (id) => document.getElementById(id);

export class AdminBox {
  /** @param {() => Promise<import("/wire.js").AccessReport>} load */
  constructor(load) {
    this.load = load;
    get("open-admin").addEventListener("click", () => { get("admin").showModal(); this.refresh(); });
    get("close-admin").addEventListener("click", () => get("admin").close());
  }

  async refresh() {
    get("admin-said").textContent = "reading …";
    try { this.paint(await this.load()); } catch (error) { this.say(error.message, true); }
  }

  say(text, wrong) {
    get("admin-said").textContent = text;
    get("admin-said").classList.toggle("error", wrong);
  }

  /** @param {import("/wire.js").AccessReport} told */
  paint({ entries, audit, rows, head, fault }) {
    this.say(fault ? `The audit is not as it was written: ${fault}` :
      rows ? `The audit's ${rows} ${rows === 1 ? "row is" : "rows are"} as written. Note its head elsewhere: ${head}` : "Nobody has done anything yet.", Boolean(fault));
    fill("admin-entries", entries.map((one) => [one.name, one.kind, one.role, when(one.made),
      one.expires ? `${when(one.expires)}${one.is_expired ? " (expired)" : ""}` : one.kind === "token" ? "–" : "never"]));
    fill("admin-audit", audit.map((one) => [String(one.number), when(one.time), [one.who, one.role].filter(Boolean).join(", "), one.through, worded(one.what), [one.subject, one.details].filter(Boolean).join(": ")]));
    get("admin-nobody").hidden = entries.length > 0;
  }
}

function fill(id, rows) {
  get(id).replaceChildren(...rows.map((cells) => { const row = node("tr"); row.append(...cells.map((text) => node("td", "", text))); return row; }));
}
