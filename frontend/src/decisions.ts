// Why: the engine's decisions, newest first, each with what it saw, which rule applied, what was done and what it cost.

import { LitElement, css, html, nothing, type TemplateResult } from "lit";
import { customElement } from "lit/decorators.js";
import { repeat } from "lit/directives/repeat.js";
import { clock, duration } from "./format";
import type { Decision } from "./model";
import { Watching, store } from "./store";
import { shared } from "./styles";

@customElement("pcloud-decisions")
export class Decisions extends LitElement {
  static override styles = [
    shared,
    css`
      .list {
        max-height: 34rem;
        overflow: auto;
      }
      details + details {
        border-top: 1px solid var(--line);
      }
      summary {
        cursor: pointer;
        padding: 0.7rem 1.1rem;
        list-style-position: inside;
        overflow-wrap: anywhere;
      }
      summary:hover {
        background: var(--raised);
      }
      summary .when {
        font-size: 0.8rem;
        font-variant-numeric: tabular-nums;
        margin-right: 0.5rem;
      }
      dl {
        display: grid;
        grid-template-columns: 4.5rem minmax(0, 1fr);
        gap: 0.45rem 0.8rem;
        margin: 0;
        padding: 0.2rem 1.1rem 1rem 2.1rem;
        font-size: 0.88rem;
      }
      dt {
        color: var(--muted);
      }
      dd {
        margin: 0;
        overflow-wrap: anywhere;
      }
      dd div + div {
        margin-top: 0.25rem;
      }
      .tag {
        font-family: var(--mono);
        font-size: 0.78rem;
        padding: 0.05rem 0.4rem;
        border: 1px solid var(--line);
        border-radius: 5px;
        background: var(--raised);
      }
      .failed {
        color: var(--failed);
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
    return html`<section class="card" aria-labelledby="why">
      <div class="head"><h2 id="why">Why</h2></div>
      ${store.decisions.length
        ? html`<div class="list" tabindex="0" role="region" aria-labelledby="why">
            ${repeat(store.decisions, (one) => one.number, (one, index) => this.#one(one, index === 0))}
          </div>`
        : html`<p class="empty muted">No decision is recorded yet.</p>`}
    </section>`;
  }

  #one(one: Decision, open: boolean): TemplateResult {
    const seen = one.observations ?? [];
    const rules = one.rules ?? [];
    const actions = one.actions ?? [];
    const cost = Object.entries(one.cost ?? {}).filter(([name]) => name.endsWith("_ms") || name === "seconds");
    return html`<details ?open=${open}>
      <summary><span class="when muted">${clock(one.time, true)}</span>${one.trigger}</summary>
      <dl>
        ${seen.length
          ? html`<dt>saw</dt>
              <dd>
                ${seen.map(
                  (found) =>
                    html`<div>
                      ${found.what}${found.detail ? `: ${found.detail}` : ""} ${found.signal ? html`<span class="tag">${found.signal}</span>` : nothing}
                    </div>`,
                )}
              </dd>`
          : nothing}
        ${rules.length
          ? html`<dt>rule</dt>
              <dd>${rules.map((rule) => html`<div><span class="tag">${rule.rule}</span> ${rule.text}</div>`)}</dd>`
          : nothing}
        <dt>did</dt>
        <dd>
          ${actions.length
            ? actions.map(
                (action) =>
                  html`<div class=${action.state === "failed" ? "failed" : ""}>
                    <b>${action.action}</b> ${action.subject}${action.state ? ` — ${action.state}` : ""}${action.seconds === undefined
                      ? ""
                      : ` in ${duration(action.seconds)}`}
                    ${action.why ? html`<span class="muted">(${action.why})</span>` : nothing}
                  </div>`,
              )
            : "nothing"}
        </dd>
        ${cost.length
          ? html`<dt>cost</dt>
              <dd class="muted">${cost.map(([name, value]) => (name === "seconds" ? `all ${duration(value)}` : `${name.replace(/_ms$/, "")} ${duration(value / 1000)}`)).join(", ")}</dd>`
          : nothing}
        ${one.outcome
          ? html`<dt>outcome</dt>
              <dd>${one.outcome}</dd>`
          : nothing}
      </dl>
    </details>`;
  }
}
