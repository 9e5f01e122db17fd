// One deployable: its state, its guests and services in their order, its history, and why things were done.

import { LitElement, css, html, nothing, type TemplateResult } from "lit";
import { customElement } from "lit/decorators.js";
import "./decisions";
import "./graph";
import "./history";
import { clock } from "./format";
import { shown, type DeployableStatus } from "./model";
import { Watching, store } from "./store";
import { shared } from "./styles";

@customElement("pcloud-deployable")
export class Deployable extends LitElement {
  static override styles = [
    shared,
    css`
      .back {
        font-size: 0.86rem;
        text-decoration: none;
      }
      .title {
        display: flex;
        flex-wrap: wrap;
        align-items: baseline;
        gap: 0.4rem 1rem;
        margin: 0.4rem 0 0.2rem;
      }
      h1 {
        font-size: 1.7rem;
        overflow-wrap: anywhere;
      }
      .state {
        font-size: 1rem;
      }
      .facts {
        margin: 0 0 1.2rem;
      }
      .reason {
        margin: 0 0 1.2rem;
        padding: 0.7rem 1.1rem;
        border-left: 4px solid var(--c, var(--line));
        overflow-wrap: anywhere;
      }
      .columns {
        display: grid;
        grid-template-columns: minmax(0, 1fr) minmax(0, 1fr);
        gap: 1.2rem;
        margin-top: 1.2rem;
        align-items: start;
      }
      @media (max-width: 960px) {
        .columns {
          grid-template-columns: minmax(0, 1fr);
        }
      }
      .empty {
        padding: 2rem 1.1rem;
        text-align: center;
      }
    `,
  ];

  constructor() {
    super();
    new Watching(this);
  }

  override render(): TemplateResult {
    const found = store.status;
    return html`<a class="back muted" href="#/">← Fleet</a>
      ${store.missing
        ? html`<div class="title"><h1>${store.chosen}</h1></div>
            <p class="muted">There is no deployable of this name (any more).</p>`
        : found
          ? this.#whole(found)
          : html`<p class="muted">Asking the daemon…</p>`}`;
  }

  #whole(found: DeployableStatus): TemplateResult {
    const name = shown(found);
    const guests = found.assemblies.length;
    return html`
      <div class="title">
        <h1>${found.name}</h1>
        <span class="state ${name}" role="status">${name}</span>
      </div>
      <p class="facts muted">
        ${guests} ${guests === 1 ? "guest" : "guests"} on ${found.infrastructure || "?"}${found.since ? ` · since ${clock(found.since)}` : ""}${found.target ===
        "stopped"
          ? " · shall be stopped"
          : ""}${found.paused ? " · recovery is paused" : ""}
      </p>
      ${found.reason ? html`<p class="card reason ${name}">${found.reason}</p>` : nothing}
      <section class="card" aria-labelledby="guests">
        <div class="head"><h2 id="guests">Guests, services and their order</h2></div>
        ${guests
          ? html`<pcloud-graph .status=${found} .orders=${store.orders}></pcloud-graph>`
          : html`<p class="empty muted">It has no assemblies yet.</p>`}
      </section>
      <div class="columns">
        <pcloud-history></pcloud-history>
        <pcloud-decisions></pcloud-decisions>
      </div>
    `;
  }
}
