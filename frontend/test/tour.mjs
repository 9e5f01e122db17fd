// Signs in (wrongly, then rightly), looks at the fleet and one deployable, light and dark, wide and narrow.

import { address, shots, signIn, withPage } from "./browser.mjs";

await withPage({ colorScheme: "light" }, async (page) => {
  const errors = [];
  const outside = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(address) && !request.url().startsWith("data:")) outside.push(request.url());
  });
  await page.goto(`${address}/ui/`);
  await page.getByLabel("Token").fill("wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  const refused = await page.getByRole("alert").innerText();
  await page.screenshot({ path: `${shots}/login.png` });
  await signIn(page);
  const list = page.locator("pcloud-fleet li a");
  await list.first().waitFor();
  await page.getByText("live", { exact: true }).waitFor();
  const names = () => page.locator("pcloud-fleet li .name").allInnerTexts();
  const rows = await names();
  await page.screenshot({ path: `${shots}/fleet-light.png` });
  await page.getByLabel("Filter by name").fill("intra");
  await page.locator("pcloud-fleet li a").nth(1).waitFor({ state: "detached" });
  const filtered = await names();
  await page.getByLabel("Filter by name").fill("");
  await page.locator("pcloud-fleet li a", { hasText: "shop" }).click();
  await page.locator("pcloud-graph path.edge").first().waitFor({ state: "attached" });
  const nodes = await page.locator("pcloud-graph svg g[role=img]").count();
  const edges = await page.locator("pcloud-graph path.edge").count();
  const order = await page.locator("pcloud-graph svg").getAttribute("aria-label");
  // Decisions are asked for on their own: they may come after the picture.
  const decisions = page.locator("pcloud-decisions section", { hasText: "0.31 s after its process ended" });
  const why = await decisions.innerText();
  await page.screenshot({ path: `${shots}/deployable-light.png`, fullPage: true });
  await page.getByRole("button", { name: "theme" }).click();
  await page.screenshot({ path: `${shots}/deployable-dark.png`, fullPage: true });
  await page.goto(`${address}/ui/#/`);
  await list.first().waitFor();
  await page.screenshot({ path: `${shots}/fleet-dark.png` });
  await page.setViewportSize({ width: 400, height: 800 });
  await page.screenshot({ path: `${shots}/fleet-narrow.png` });
  const kept = await page.evaluate(() => ({
    session: Object.values(sessionStorage).includes("test-token"),
    local: Object.values(localStorage).includes("test-token"),
  }));
  return { refused, rows, filtered, nodes, edges, order, why, outside, errors, kept };
});
