// Signing in with a token.

import { LitElement, css, html, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import * as api from "./api";
import { Watching, store } from "./store";
import { shared } from "./styles";

@customElement("pcloud-login")
export class Login extends LitElement {
  static override styles = [
    shared,
    css`
      form {
        max-width: 26rem;
        margin: 12vh auto 0;
        padding: 2rem;
        display: grid;
        gap: 0.9rem;
      }
      h1 {
        font-size: 1.3rem;
      }
      p {
        margin: 0;
        font-size: 0.9rem;
      }
      input {
        font: inherit;
        font-family: var(--mono);
        color: inherit;
        background: var(--raised);
        border: 1px solid var(--line);
        border-radius: 9px;
        padding: 0.6rem 0.8rem;
        width: 100%;
        box-sizing: border-box;
      }
      button {
        font: inherit;
        font-weight: 650;
        color: var(--accent-text);
        background: var(--accent);
        border: 0;
        border-radius: 9px;
        padding: 0.65rem;
        cursor: pointer;
      }
      .bad {
        color: var(--failed);
      }
      label {
        font-size: 0.86rem;
        font-weight: 600;
      }
    `,
  ];

  @state() private busy = false;

  constructor() {
    super();
    new Watching(this);
  }

  async #submit(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    const field = this.renderRoot.querySelector("input");
    const value = field?.value.trim() ?? "";
    if (!value) return;
    this.busy = true;
    api.keepToken(value);
    if (!(await store.signIn())) api.keepToken("");
    this.busy = false;
  }

  override render(): TemplateResult {
    return html`
      <form class="card" @submit=${this.#submit}>
        <h1>Sign in</h1>
        <p class="muted">
          With an access token: the daemon's first one is in <span class="mono">$PCLOUD_HOME/token</span>, others are made by
          <span class="mono">pcloud token create</span>. It is kept until this tab is closed.
        </p>
        <label for="token">Token</label>
        <input id="token" type="password" autocomplete="current-password" spellcheck="false" autofocus required />
        ${store.complaint ? html`<p class="bad" role="alert">${store.complaint}</p>` : nothing}
        <button ?disabled=${this.busy}>${this.busy ? "Signing in…" : "Sign in"}</button>
      </form>
    `;
  }
}
