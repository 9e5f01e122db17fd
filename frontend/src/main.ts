// The page: signing in, the bar at the top, and which view the address names (#/ the fleet, #/d/NAME one deployable).

import { LitElement, css, html, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import "./deployable";
import "./fleet";
import "./login";
import * as api from "./api";
import { Watching, store } from "./store";
import { shared } from "./styles";

type Theme = "light" | "dark" | "";

@customElement("pcloud-app")
export class App extends LitElement {
  static override styles = [
    shared,
    css`
      header {
        display: flex;
        align-items: center;
        gap: 0.9rem;
        padding: 0.7rem clamp(1rem, 4vw, 2.5rem);
        background: var(--surface);
        border-bottom: 1px solid var(--line);
        position: sticky;
        top: 0;
        z-index: 2;
      }
      header a {
        display: flex;
        align-items: center;
        gap: 0.6rem;
        font-weight: 700;
        text-decoration: none;
        letter-spacing: -0.01em;
      }
      header img {
        width: 28px;
        height: 28px;
      }
      .grow {
        flex: 1;
      }
      .live {
        display: inline-flex;
        align-items: center;
        gap: 0.45em;
        font-size: 0.82rem;
        color: var(--muted);
      }
      .live::before {
        content: "";
        width: 8px;
        height: 8px;
        border-radius: 50%;
        background: var(--starting);
      }
      .live.on::before {
        background: var(--running);
      }
      button {
        font: inherit;
        font-size: 0.82rem;
        color: var(--muted);
        background: none;
        border: 1px solid var(--line);
        border-radius: 8px;
        padding: 0.3rem 0.7rem;
        cursor: pointer;
      }
      button,
      header a {
        white-space: nowrap;
      }
      button:hover {
        color: var(--text);
        border-color: var(--muted);
      }
      main {
        padding: 1.6rem clamp(1rem, 4vw, 2.5rem) 3rem;
        max-width: 1440px;
        margin: 0 auto;
      }
      @media (max-width: 640px) {
        .wide {
          display: none;
        }
        header {
          gap: 0.5rem;
          padding-inline: 0.8rem;
          font-size: 0.9rem;
        }
        button {
          padding-inline: 0.5rem;
        }
      }
    `,
  ];

  @state() private theme: Theme = (localStorage.getItem("pcloud-theme") as Theme | null) ?? "";
  @state() private ready = false;

  constructor() {
    super();
    new Watching(this);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.#paint();
    window.addEventListener("hashchange", this.#route);
    this.#route();
    const start = api.token() ? store.signIn() : Promise.resolve(false);
    void start.finally(() => (this.ready = true));
  }

  override disconnectedCallback(): void {
    window.removeEventListener("hashchange", this.#route);
    super.disconnectedCallback();
  }

  readonly #route = (): void => {
    const found = /^#\/d\/(.+)$/.exec(location.hash);
    let name = "";
    try {
      name = found?.[1] ? decodeURIComponent(found[1]) : "";
    } catch {
      // An address that is no address shows the fleet.
    }
    if (name !== store.chosen) void store.choose(name);
    document.title = name ? `${name} · Pacemaker Cloud` : "Pacemaker Cloud";
  };

  #paint(): void {
    if (this.theme) document.documentElement.dataset.theme = this.theme;
    else delete document.documentElement.dataset.theme;
  }

  #turn(): void {
    const dark = this.theme ? this.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    this.theme = dark ? "light" : "dark";
    localStorage.setItem("pcloud-theme", this.theme);
    this.#paint();
  }

  override render(): TemplateResult {
    return html`
      <header>
        <a href="#/"><img src="/ui/icon.svg" alt="" />Pacemaker Cloud</a>
        ${store.host ? html`<span class="muted wide">${store.host}</span>` : nothing}
        <span class="grow"></span>
        ${store.signedIn
          ? html`<span class="live ${store.live ? "on" : ""}" role="status">${store.live ? "live" : "connecting…"}</span>`
          : nothing}
        <button @click=${this.#turn} title="Light or dark">◐<span class="wide"> theme</span></button>
        ${store.signedIn ? html`<button @click=${(): void => store.signOut()}>sign out</button>` : nothing}
      </header>
      <main>${this.#view()}</main>
    `;
  }

  #view(): TemplateResult | typeof nothing {
    if (!this.ready) return nothing;
    if (!store.signedIn) return html`<pcloud-login></pcloud-login>`;
    return store.chosen ? html`<pcloud-deployable></pcloud-deployable>` : html`<pcloud-fleet></pcloud-fleet>`;
  }
}
