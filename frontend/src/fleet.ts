// The fleet: how many deployables are in which state, all of them with what needs attention first, and what just happened.

import { LitElement, css, html, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import "./history";
import { clock } from "./format";
import { shown, urgency, type Summary } from "./model";
import { Watching, store } from "./store";
import { shared } from "./styles";

/** Rows drawn at once; the filter finds the others. */
const MOST = 300;

@customElement("pcloud-fleet")
export class Fleet extends LitElement {
  static override styles = [
    shared,
    css`
      .tiles {
        display: flex;
        flex-wrap: wrap;
        gap: 0.8rem;
        margin-bottom: 1.4rem;
      }
      .tile {
        padding: 0.8rem 1.2rem;
        min-width: 7rem;
        text-align: left;
        font: inherit;
        color: inherit;
        cursor: pointer;
      }
      .tile[aria-pressed="true"] {
        border-color: var(--c, var(--accent));
      }
      .tile b {
        display: block;
        font-size: 1.8rem;
        line-height: 1.2;
        font-weight: 650;
        font-variant-numeric: tabular-nums;
      }
      .columns {
        display: grid;
        grid-template-columns: minmax(0, 1.7fr) minmax(0, 1fr);
        gap: 1.2rem;
        align-items: start;
      }
      @media (max-width: 960px) {
        .columns {
          grid-template-columns: minmax(0, 1fr);
        }
      }
      input {
        margin-left: auto;
        font: inherit;
        font-size: 0.86rem;
        color: inherit;
        background: var(--raised);
        border: 1px solid var(--line);
        border-radius: 8px;
        padding: 0.3rem 0.7rem;
        width: 11rem;
      }
      ul {
        list-style: none;
        margin: 0;
        padding: 0;
      }
      li + li {
        border-top: 1px solid var(--line);
      }
      li a {
        display: grid;
        grid-template-columns: minmax(0, 1fr) 8.5rem 9rem;
        gap: 0.2rem 1rem;
        align-items: center;
        padding: 0.75rem 1.1rem;
        text-decoration: none;
      }
      li a:hover {
        background: var(--raised);
      }
      .name {
        font-weight: 650;
        overflow-wrap: anywhere;
      }
      .reason {
        grid-column: 1 / -1;
        font-size: 0.86rem;
        overflow-wrap: anywhere;
      }
      .meter {
        display: flex;
        align-items: center;
        gap: 0.5rem;
        font-size: 0.82rem;
        font-variant-numeric: tabular-nums;
      }
      progress {
        appearance: none;
        width: 3.4rem;
        height: 6px;
        border: 0;
        border-radius: 3px;
        overflow: hidden;
        background: var(--line);
      }
      progress::-webkit-progress-bar {
        background: var(--line);
      }
      progress::-webkit-progress-value {
        background: var(--running);
      }
      progress::-moz-progress-bar {
        background: var(--running);
      }
      @media (max-width: 560px) {
        .tiles {
          gap: 0.5rem;
        }
        .tile {
          padding: 0.5rem 0.8rem;
          min-width: 0;
        }
        .tile b {
          font-size: 1.3rem;
        }
        li a {
          grid-template-columns: minmax(0, 1fr) auto auto;
        }
        progress {
          display: none;
        }
      }
      .empty {
        padding: 2.5rem 1.1rem;
        text-align: center;
      }
    `,
  ];

  @state() private filter = "";
  @state() private only = "";

  constructor() {
    super();
    new Watching(this);
  }

  override render(): TemplateResult {
    const fleet = store.fleet;
    if (!fleet) return html`<p class="muted">Asking the daemon…</p>`;
    const counts = new Map<string, number>();
    for (const one of fleet) counts.set(shown(one), (counts.get(shown(one)) ?? 0) + 1);
    const states = [...counts].sort(([a], [b]) => urgency(a) - urgency(b));
    const fitting = fleet
      .filter((one) => (!this.only || shown(one) === this.only) && one.name.includes(this.filter))
      .sort((a, b) => urgency(shown(a)) - urgency(shown(b)) || a.name.localeCompare(b.name));
    return html`
      <section class="tiles" aria-label="States">
        ${this.#tile("", fleet.length, fleet.length === 1 ? "deployable" : "deployables")}
        ${states.map(([name, count]) => this.#tile(name, count, name))}
      </section>
      <div class="columns">
        <section class="card" aria-labelledby="fleet">
          <div class="head">
            <h2 id="fleet">Fleet</h2>
            <input
              type="search"
              placeholder="Filter by name"
              aria-label="Filter by name"
              @input=${(event: InputEvent): void => {
                this.filter = (event.target as HTMLInputElement).value.trim();
              }}
            />
          </div>
          ${fitting.length
            ? html`<ul>
                ${repeat(fitting.slice(0, MOST), (one) => one.name, (one) => this.#row(one))}
              </ul>`
            : html`<p class="empty muted">
                ${fleet.length ? "None fits." : html`Nothing here yet: <span class="mono">pcloud apply -f shop.yaml</span>`}
              </p>`}
          ${fitting.length > MOST ? html`<p class="empty muted">${fitting.length - MOST} more; filter by name.</p>` : nothing}
        </section>
        <pcloud-history heading="What happened"></pcloud-history>
      </div>
    `;
  }

  #tile(name: string, count: number, label: string): TemplateResult {
    const pressed = this.only === name;
    return html`<button
      class="card tile ${name}"
      aria-pressed=${pressed}
      @click=${(): void => {
        this.only = pressed ? "" : name;
      }}
    >
      <b>${count}</b><span class=${name ? `state ${name}` : "muted"}>${label}</span>
    </button>`;
  }

  #row(one: Summary): TemplateResult {
    const name = shown(one);
    return html`<li>
      <a href="#/d/${encodeURIComponent(one.name)}">
        <span class="name">${one.name} <span class="muted mono">${one.infrastructure}</span></span>
        <span class="meter"
          ><progress max=${Math.max(one.assemblies, 1)} value=${one.running} aria-label="assemblies that run"></progress>
          ${one.running}/${one.assemblies}</span
        >
        <span class="state ${name}" title=${clock(one.since)}>${name}</span>
        ${one.reason ? html`<span class="reason muted">${one.reason}</span>` : nothing}
      </a>
    </li>`;
  }
}
