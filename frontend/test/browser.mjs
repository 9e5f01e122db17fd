// Starts Debian's chromium for a page script and prints what it found as one line of JSON.

import { chromium } from "playwright-core";

export const { URL: address, TOKEN: token, SHOTS: shots } = process.env;

export async function withPage(options, work) {
  const args = ["--no-sandbox", "--disable-gpu"];
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args, timeout: 300_000 });
  try {
    const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(300_000);
    console.log(JSON.stringify(await work(page)));
  } finally {
    await browser.close();
  }
}

export async function signIn(page) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
}
