// Opens a page of explain, and its trace in speedscope, in a browser, and prints what is there as JSON.
// Arguments: a JSON object with playwright (folder), speedscope (folder of its release, or null), chromium, page, trace, pictures.
const fs = require("fs"), http = require("http"), path = require("path");
const given = JSON.parse(process.argv[2]);
const { chromium } = require(given.playwright);

async function main() {
  const browser = await chromium.launch({ executablePath: given.chromium, args: ["--no-sandbox"] });
  try {
    const found = { requests: [], messages: [] };
    const url = "file://" + given.page;
    const open = async (options) => {
      const page = await (await browser.newContext(options)).newPage();
      page.on("request", (request) => { if (request.url() !== url) found.requests.push(request.url()); });
      page.on("console", (message) => found.messages.push(message.text()));
      page.on("pageerror", (error) => found.messages.push(error.message));
      page.on("dialog", (dialog) => { found.messages.push("dialog"); dialog.dismiss(); });
      await page.goto(url);
      return page;
    };
    const laptop = await open({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
    await pictures(laptop, "laptop");
    Object.assign(found, await drawn(laptop), await searched(laptop), await sorted(laptop), await keys(laptop), await themes(laptop));
    const phone = await open({ viewport: { width: 390, height: 844 }, colorScheme: "light", isMobile: true });
    await pictures(phone, "phone");
    found.phone = await phone.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    const dark = await open({ viewport: { width: 1280, height: 900 }, colorScheme: "dark" });
    await pictures(dark, "dark");
    found.papers = [await paper(laptop), await paper(dark)];
    const plain = await open({ viewport: { width: 1280, height: 900 }, javaScriptEnabled: false });
    found.plain = { rows: await plain.locator("table.regions tbody tr:visible").count(), search: await plain.locator("input:visible").count() };
    if (given.speedscope) found.speedscope = await speedscope(browser);
    console.log(JSON.stringify(found));
  } finally {
    await browser.close();
  }
}

const paper = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
const pictures = (page, name) => page.screenshot({ path: path.join(given.pictures, name + ".png"), fullPage: true });

async function drawn(page) {
  return page.evaluate(() => {
    const size = (element) => { const box = element.getBoundingClientRect(); return [box.width, box.height]; };
    return {
      bars: [...document.querySelectorAll(".bar rect")].map(size),
      areas: [...document.querySelectorAll("path.area")].map(size),
      peaks: [...document.querySelectorAll("circle.peak")].map(size),
      boxes: [...document.querySelectorAll(".box .card")].map(size),
    };
  });
}

async function searched(page) {
  const input = page.locator("input[type=search]").first(), rows = page.locator("table.regions").first().locator("tbody tr:visible");
  const before = await rows.count();
  await input.fill("gpu1");
  const during = await rows.count(), said = await page.locator("output[data-found]").first().textContent();
  const dim = await page.locator(".bar.dim").count();
  await input.press("Escape");
  return { search: { before, during, said, dim, after: await rows.count() } };
}

async function sorted(page) {
  const table = page.locator("table.regions").first(), head = table.locator("thead th").filter({ hasText: "starts" });
  const column = () => table.locator("tbody tr").evaluateAll((rows) => rows.map((row) => Number(row.cells[6].dataset.value)));
  await head.locator("button").press("Enter");
  const up = await column();
  await head.locator("button").press("Enter");
  return { sort: { up, down: await column(), says: await head.getAttribute("aria-sort") } };
}

async function keys(page) {
  const read = async (kind) => {
    const figure = page.locator(`figure[data-chart=${kind}]`).first(), said = [];
    await figure.locator("svg.drawn").focus();
    for (const key of ["ArrowRight", "End", "Escape"]) {
      await page.keyboard.press(key);
      said.push(await figure.locator("output").textContent());
    }
    return said;
  };
  const reached = new Set();
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  for (let count = 0; count < 40; count++) {
    await page.keyboard.press("Tab");
    reached.add(await page.evaluate(() => {
      const one = document.activeElement;
      return one.id || one.closest("figure")?.dataset.chart || one.className?.baseVal || one.className || one.tagName.toLowerCase();
    }));
  }
  return { time: await read("time"), memory: await read("memory"), reached: [...reached] };
}

async function themes(page) {
  const seen = [];
  for (let count = 0; count < 3; count++) {
    await page.locator("#theme").click();
    seen.push(await page.evaluate(() => document.documentElement.dataset.theme ?? "auto"));
  }
  return { themes: seen };
}

async function speedscope(browser) {
  const server = http.createServer((request, response) => {
    const name = decodeURIComponent(request.url.split("?")[0]);
    const file = name === "/t.json" ? given.trace : path.join(given.speedscope, name === "/" ? "index.html" : name);
    const kinds = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".wasm": "application/wasm" };
    fs.readFile(file, (error, data) => {
      response.writeHead(error ? 404 : 200, { "Content-Type": kinds[path.extname(file)] ?? "application/octet-stream" });
      response.end(error ? "" : data);
    });
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  try {
    const page = await (await browser.newContext({ viewport: { width: 1280, height: 800 } })).newPage(), errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("dialog", (dialog) => { errors.push(dialog.message()); dialog.dismiss(); });
    await page.goto(`http://127.0.0.1:${server.address().port}/#profileURL=/t.json`);
    await page.waitForSelector("canvas", { timeout: 20000 });
    await page.waitForFunction(() => document.title !== "speedscope", null, { timeout: 20000 }).catch(() => {});
    await pictures(page, "speedscope");
    return { title: await page.title(), text: await page.evaluate(() => document.body.innerText), errors };
  } finally {
    server.close();
  }
}

main().catch((error) => { console.error(error); process.exit(1); });
