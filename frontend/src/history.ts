// The newest events, as they come.

import { LitElement, css, html, nothing, type TemplateResult } from "lit";
import { customElement, property } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import { clock } from "./format";
import { kind, text, type CloudEvent } from "./model";
import { Watching, store, weight } from "./store";
import { shared } from "./styles";

@customElement("pcloud-history")
export class History extends LitElement {
  static override styles = [
    shared,
    css`
      ol {
        list-style: none;
        margin: 0;
        padding: 0.4rem 0;
        max-height: 34rem;
        overflow: auto;
      }
      li {
        display: grid;
        grid-template-columns: 4.6rem minmax(0, 1fr);
        gap: 0 0.8rem;
        padding: 0.35rem 1.1rem;
        font-size: 0.88rem;
        border-left: 3px solid transparent;
      }
      li.bad {
        border-color: var(--failed);
      }
      li.good {
        border-color: var(--running);
      }
      time {
        color: var(--muted);
        font-variant-numeric: tabular-nums;
        font-size: 0.8rem;
        padding-top: 0.1em;
      }
      .subject {
        margin-right: 0.5em;
        font-weight: 600;
        overflow-wrap: anywhere;
      }
      .why {
        overflow-wrap: anywhere;
      }
      .empty {
        padding: 2rem 1.1rem;
        text-align: center;
      }
    `,
  ];

  @property() heading = "History";

  constructor() {
    super();
    new Watching(this);
  }

  override render(): TemplateResult {
    return html`<section class="card" aria-labelledby="history">
      <div class="head"><h2 id="history">${this.heading}</h2></div>
      ${store.events.length
        ? html`<ol aria-live="polite" aria-relevant="additions" tabindex="0">
            ${repeat(store.events, (event) => event.id, (event) => this.#row(event))}
          </ol>`
        : html`<p class="empty muted">Nothing has happened yet.</p>`}
    </section>`;
  }

  #row(event: CloudEvent): TemplateResult {
    const state = text(event, "state");
    const reason = text(event, "reason");
    const what = kind(event).endsWith(".state") && state ? html`<span class="state ${state}">${state}</span>` : html`${kind(event)}`;
    return html`<li class=${weight(event)}>
      <time datetime=${event.time}>${clock(Date.parse(event.time) / 1000)}</time>
      <span><span class="subject">${event.subject || "daemon"}</span> ${what}
        ${reason ? html`<div class="why muted">${reason}</div>` : nothing}</span
      >
    </li>`;
  }
}
