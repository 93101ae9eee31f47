// @ts-check
"use strict";
// The page is whole without this script, which adds: sorting, filtering, links to a view, and what lies behind a cell.
(() => {
  /**
   * Of one ranking; flat columns run over (method, category, seed), `half` over (method, category) with half the
   * 95 % interval over seeds; `means` are the mean over the `counted` categories of a split and its interval. In hundredths of a percent.
   * @typedef {{
   *   dataset: string, methods: string[], categories: string[], seeds: number[],
   *   values: Record<string, Record<string, (number | null)[]>>, outcome: string,
   *   half: Record<string, Record<string, (number | null)[]>>,
   *   means: Record<string, Record<string, ([number, number | null, number | null] | null)[]>>,
   *   counted: Record<string, number>,
   *   file: (string | null)[] | null, folder: [string[], string[]],
   *   fit: (number | null)[], speed: (number | null)[], memory: (number | null)[], epoch: (number | null)[],
   *   environment: (number | null)[], failure: Record<string, number>, curve: Record<string, Curve>, line: Record<string, Line>,
   *   origin: Record<string, string>, command: Record<string, string>, fingerprint: string,
   * }} Runs
   * @typedef {{ epochs: number[], series: Record<string, (number | null)[]>, test?: (number | null)[] }} Curve
   * @typedef {{ rows: [string, string, string, Record<string, string>][], fpr: Record<string, string[]>, notes: string[], validation: number }} Line
   * @typedef {{ metrics: Record<string, string>, rankings: Record<string, Runs>, environments: string[], failures: string[] }} Data
   */
  const OUTCOMES = ["ok", "failed", "out of memory", "timeout"];
  const FIELDS = ["dataset", "protocol", "split", "metric", "method", "category"];

  /** @template {Element} T @param {string} selector @param {ParentNode} [root] @returns {T[]} */
  const all = (selector, root = document) => /** @type {T[]} */ ([...root.querySelectorAll(selector)]);

  /** @param {string} tag @param {Record<string, string>} [attributes] @param {...(Node | string)} children */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  const form = /** @type {HTMLFormElement} */ (document.getElementById("tools"));
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("cell"));
  /** @type {Map<string, string>} */
  let state = new Map();

  // ---- Data

  /** @type {Promise<Data> | null} */
  let unpacked = null;

  /** @returns {Promise<Data>} */
  function data() {
    unpacked ??= (async () => {
      const text = (document.getElementById("runs")?.textContent ?? "").trim();
      const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      return JSON.parse(await new Response(stream).text());
    })();
    return unpacked;
  }

  // ---- State in the address

  function readState() {
    const hash = location.hash.slice(1);
    return hash.includes("=") ? new Map(new URLSearchParams(hash)) : new Map(state);
  }

  function writeState() {
    const text = new URLSearchParams([...state].filter(([, value]) => value)).toString();
    history.replaceState(null, "", `#${text}`);
  }

  // ---- Filter

  /** @param {string} name */
  const wanted = (name) => state.get(name) ?? "";

  /**
   * What a cell's table holds that filters ask for, so that typing reads nothing from the page.
   * @typedef {{ table: HTMLTableElement, heads: { metric?: string, category?: string }[], rows: [HTMLTableRowElement, string, string][] }} Indexed
   * @type {Indexed[]}
   */
  const indexed = (/** @type {HTMLTableElement[]} */ (all("table.opens"))).map((table) => ({
    table,
    heads: [...(table.tHead?.rows[0].cells ?? [])].map(({ dataset: { metric, category }, textContent }) => ({
      metric, category: category === undefined || category === "-1" ? undefined : (textContent ?? "").toLowerCase(),
    })),
    rows: [...table.tBodies[0].rows].map((row) => {
      const name = row.cells[0].textContent ?? "";
      return [row, name, name.toLowerCase()];
    }),
  }));

  /** Returns whether a text, in lower case, has one of the typed parts. @param {string} typed @returns {(text: string) => boolean} */
  function matcher(typed) {
    const parts = typed.toLowerCase().split(",").map((part) => part.trim()).filter(Boolean);
    return (text) => !parts.length || parts.some((part) => text.includes(part));
  }

  // A column is hidden by a word of its table and a rule: one change instead of one for each of thousands of cells.
  const style = /** @type {HTMLStyleElement} */ (document.head.appendChild(make("style")));
  const rules = /** @type {CSSStyleSheet} */ (style.sheet);
  for (let column = 1; column <= Math.max(0, ...indexed.map(({ heads }) => heads.length)); column++)
    rules.insertRule(`table[data-hidden~="${column}"] > * > tr > :nth-child(${column}) { display: none; }`);

  /** @param {Indexed} own @param {(text: string) => boolean} category */
  function filterColumns({ table, heads }, category) {
    const metric = wanted("metric");
    const hidden = heads.flatMap((head, place) =>
      head.metric && metric ? (head.metric === metric ? [] : [place + 1]) : head.category === undefined || category(head.category) ? [] : [place + 1]);
    const key = hidden.join(" ");
    if ((table.dataset.hidden ?? "") !== key) table.dataset.hidden = key;
  }

  /** @param {HTMLElement} element @param {boolean} hide */
  function hide(element, hide) {
    if (element.hidden !== hide) element.hidden = hide;
  }

  function filter() {
    for (const element of /** @type {HTMLElement[]} */ (all("section.ranking, .verdict tbody tr"))) {
      const { dataset, protocol } = element.dataset;
      hide(element, Boolean(
        (wanted("dataset") && dataset !== wanted("dataset")) || (wanted("protocol") && protocol !== wanted("protocol")),
      ));
    }
    for (const element of /** @type {HTMLElement[]} */ (all("div[data-split]"))) {
      const { split, metric } = element.dataset;
      hide(element, Boolean(
        (wanted("split") && split !== wanted("split")) || (wanted("metric") && metric && metric !== wanted("metric")),
      ));
    }
    const methods = new Set(), shown = new Set();
    const named = matcher(wanted("method")), category = matcher(wanted("category"));
    for (const own of indexed) {
      filterColumns(own, category);
      const outside = own.table.closest("[hidden]") !== null;
      for (const [row, name, lower] of own.rows) {
        const match = named(lower);
        hide(row, !match);
        methods.add(name);
        if (match && !outside) shown.add(name);
      }
    }
    if (wanted("category")) for (const details of /** @type {HTMLDetailsElement[]} */ (all("details.lazy:not([open])"))) details.open = true;
    const any = FIELDS.some((name) => wanted(name));
    const said = any ? `${shown.size} of ${methods.size} methods shown` : `${methods.size} methods`;
    const output = form.querySelector("output");
    if (output && output.textContent !== said) output.textContent = said;
  }

  function fillForm() {
    for (const name of ["dataset", "protocol"]) {
      const values = all("section.ranking").map((s) => /** @type {HTMLElement} */ (s).dataset[name] ?? "");
      fill(name, [...new Set(values)].map((value) => [value, value]));
    }
    const splits = all("div[data-split]").map((e) => /** @type {HTMLElement} */ (e).dataset.split ?? "");
    fill("split", [...new Set(splits)].map((value) => [value, value.replace("_", " ")]));
    const heads = /** @type {HTMLElement[]} */ (all("th[data-metric]"));
    fill("metric", [...new Map(heads.map((head) => [head.dataset.metric ?? "", head.textContent ?? ""]))]);
  }

  /** A choice of one needs no field. @param {string} name @param {[string, string][]} options */
  function fill(name, options) {
    const select = /** @type {HTMLSelectElement} */ (form.elements.namedItem(name));
    for (const [value, text] of options) select.append(make("option", { value }, text));
    if (options.length < 2) /** @type {HTMLElement} */ (select.parentElement).hidden = true;
  }

  // ---- Sorting

  /** @param {HTMLTableCellElement} cell @returns {number | string} */
  function sortValue(cell) {
    const text = (cell.firstChild?.textContent ?? "").trim();
    if (cell.classList.contains("missing") || text === "–" || text === "") return -Infinity;
    const number = /^[+−-]?\d/.test(text) ? Number.parseFloat(text.replace("−", "-")) : Number.NaN;
    return Number.isNaN(number) ? text : number;
  }

  /** @param {HTMLTableElement} table @param {number} column @param {boolean} down */
  function sort(table, column, down) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, value: sortValue(row.cells[column]) }));
    const compare = (/** @type {number | string} */ a, /** @type {number | string} */ b) =>
      typeof a === "string" && typeof b === "string" ? a.localeCompare(b) : Number(a > b) - Number(a < b);
    // What is missing stays below, whichever way.
    rows.sort((a, b) => {
      const missing = Number(a.value === -Infinity) - Number(b.value === -Infinity);
      return missing || (down ? -1 : 1) * compare(a.value, b.value);
    });
    body.append(...rows.map(({ row }) => row));
    for (const head of table.tHead?.rows[0].cells ?? []) head.removeAttribute("aria-sort");
    table.tHead?.rows[0].cells[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  const tables = /** @type {HTMLTableElement[]} */ (all("table.sortable"));

  function addSorting() {
    for (const table of tables)
      for (const head of table.tHead?.rows[0].cells ?? []) {
        const button = make("button", { type: "button" });
        button.append(...head.childNodes);
        head.append(button);
      }
    document.addEventListener("click", (event) => {
      const head = /** @type {Element} */ (event.target).closest?.("table.sortable thead th");
      if (!(head instanceof HTMLTableCellElement)) return;
      const table = /** @type {HTMLTableElement} */ (head.closest("table"));
      const down = head.getAttribute("aria-sort") === null ? head.cellIndex > 0 : head.getAttribute("aria-sort") === "ascending";
      sort(table, head.cellIndex, down);
      state.set("sort", `${tables.indexOf(table)}.${head.cellIndex}.${down ? "down" : "up"}`);
      writeState();
    });
  }

  // ---- What lies behind a cell

  // A table's cells become buttons when it comes near: a long page has tens of thousands.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      addButtons(/** @type {HTMLTableElement} */ (target));
    }
  }, { rootMargin: "100%" });

  /** @param {HTMLTableElement} table */
  function addButtons(table) {
    const heads = [...(table.tHead?.rows[0].cells ?? [])].map((head) => head.dataset.metric ?? head.dataset.category);
    for (const row of table.tBodies[0].rows)
      heads.forEach((head, place) => {
        if (head === undefined) return;
        const cell = row.cells[place], button = make("button", { type: "button", "aria-haspopup": "dialog" });
        button.append(...cell.childNodes);
        cell.append(button);
      });
  }

  /** @param {HTMLTableCellElement} cell */
  function opened(cell) {
    const table = /** @type {HTMLTableElement} */ (cell.closest("table"));
    const head = /** @type {HTMLTableCellElement} */ (table.tHead?.rows[0].cells[cell.cellIndex]);
    const row = /** @type {HTMLTableRowElement} */ (cell.parentElement);
    const where = [table.dataset.ranking, table.dataset.split, row.dataset.method, head.dataset.category ?? "-1"];
    return where.join("|");
  }

  /** @param {string} address as made by `opened` */
  async function open(address) {
    const [ranking, split, method, category] = address.split("|");
    const { rankings, metrics, environments, failures } = await data();
    const runs = rankings[ranking];
    const m = Number(method), c = Number(category);
    if (!runs || !(m in runs.methods) || !(c === -1 || c in runs.categories)) return;
    const name = runs.methods[m], place = c === -1 ? `mean over ${runs.dataset}` : `${runs.dataset} · ${runs.categories[c]}`;
    const picked = runs.categories.map((_, i) => i).filter((i) => c === -1 || i === c);
    const close = make("button", { type: "button" }, "Close");
    close.addEventListener("click", () => dialog.close());
    const title = make("h2", { id: "cell-title" }, name, make("br"), make("span", { class: "soft" }, place));
    const command = commandOf(runs, m, c);
    const copy = make("button", { type: "button" }, "Copy");
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(command);
      copy.textContent = "Copied";
    });
    dialog.replaceChildren(
      make("header", {}, title, close),
      make("h3", {}, `Runs, ${split === "all" ? "all anomalies" : split.replace("_", " ")}, in %`),
      ...runTable(runs, split, m, picked, metrics),
      ...atTheLine(runs, split, m, picked),
      ...curves(runs, m, picked),
      make("h3", {}, "The command that does it again"),
      make("pre", {}, command),
      copy,
      ...texts("Why there is no number", indices(runs, m, picked).map((i) => runs.failure[i]), failures),
      make("details", {}, make("summary", {}, "Fingerprint"), make("pre", {}, runs.fingerprint)),
      ...texts("Environment", indices(runs, m, picked).map((i) => runs.environment[i]), environments),
    );
    state.set("open", address);
    writeState();
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }

  /** @param {Runs} runs @param {number} m @param {number[]} categories */
  function indices(runs, m, categories) {
    const { seeds, categories: every } = runs;
    return categories.flatMap((c) => seeds.map((_, s) => (m * every.length + c) * seeds.length + s));
  }

  /** @param {Runs} runs @param {number} m @param {number} c */
  function commandOf(runs, m, c) {
    const template = runs.command[runs.methods[m]];
    const category = c === -1 ? null : runs.categories[c];
    const quoted = category && /^[\w.-]+$/.test(category) ? category : `'${(category ?? "").replaceAll("'", "'\\''")}'`;
    return template
      .replace("--categories {category}", () => (category === null ? "" : `--categories ${quoted}`))
      .replace("{seed}", runs.seeds.join(","))
      .replaceAll("  ", " ");
  }

  /** @param {Runs} runs @param {string} split @param {number} m @param {number[]} categories @param {Record<string, string>} metrics */
  function runTable(runs, split, m, categories, metrics) {
    const own = Object.entries(runs.values[split] ?? {});
    const selected = runs.epoch.length > 0;
    const made = indices(runs, m, categories).some((i) => runs.origin[i]);
    const heads = [...(categories.length > 1 ? ["Category"] : []), "Seed", ...own.map(([key]) => metrics[key]), "Training s", "Images/s", "Peak GB", ...(selected ? ["Epoch"] : []), "Outcome", "Record", ...(made ? ["Made from"] : [])];
    const body = make("tbody");
    const number = (/** @type {number | null | undefined} */ value, digits = 2) => (value == null ? "–" : value.toFixed(digits));
    for (const i of indices(runs, m, categories)) {
      const s = i % runs.seeds.length, c = Math.floor(i / runs.seeds.length) % runs.categories.length;
      const outcome = runs.outcome[i] === "-" ? "not run" : OUTCOMES[Number(runs.outcome[i])];
      const folder = `…/${runs.folder[0][c]}/${runs.folder[1][m]}/`;
      const file = runs.outcome[i] === "-" ? "–" : (runs.file?.[i] ?? folder);
      const cells = [
        ...(categories.length > 1 ? [String(runs.seeds[s])] : []),
        ...own.map(([, values]) => number(values[i] == null ? null : Number(values[i]) / 100)),
        ...[runs.fit[i], runs.speed[i], runs.memory[i]].map((value) => (value == null ? "–" : String(value))),
        ...(selected ? [number(runs.epoch[i], 0)] : []),
        outcome,
        file,
        ...(made ? [runs.origin[i] ?? "–"] : []),
      ];
      const first = categories.length > 1 ? runs.categories[c] : String(runs.seeds[s]);
      body.append(make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((text) => make("td", {}, text))));
    }
    const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
    const before = categories.length > 1 ? 1 : 0;
    const rest = heads.length - 1 - before - own.length;
    const [sums, about] = summary(runs, split, m, categories);
    const foot = make("tfoot", {}, ...sums.map(([title, ...cells]) => make("tr", {},
      make("th", { scope: "row" }, title), ...Array(before).fill("").concat(cells, Array(rest).fill("")).map((text) => make("td", {}, text)))));
    return [
      make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Runs" }, make("table", {}, head, body, foot)),
      make("p", {}, about),
      ...(made ? [make("p", {}, "The last column says what a row was made from: parts that another run kept, by its key (nothing was trained), or its kept maps, scored again on that day.")] : []),
    ];
  }

  /**
   * Rows of the mean and of its interval, one cell for each metric, and a sentence on them.
   * @param {Runs} runs @param {string} split @param {number} m @param {number[]} categories @returns {[string[][], string]}
   */
  function summary(runs, split, m, categories) {
    const text = (/** @type {number} */ hundredths) => (hundredths / 100).toFixed(2);
    const range = (/** @type {number} */ low, /** @type {number} */ high) => `${text(Math.max(low, 0))} to ${text(Math.min(high, 1e4))}`;
    const seeds = runs.seeds.length, kept = Object.keys(runs.values[split] ?? {});
    if (categories.length > 1) {
      const means = kept.map((key) => runs.means[split][key][m]);
      if (!means.some(Boolean)) return [[], "Not every run has a number: there is no mean, and no interval."];
      const rows = [["Mean", ...means.map((found) => (found ? text(found[0]) : "–"))]];
      rows.push(["95 % interval", ...means.map((found) => (found && found[1] !== null && found[2] !== null ? range(found[1], found[2]) : "–"))]);
      const count = runs.counted[split];
      const each = seeds > 1 ? `each the mean of ${seeds} seeds` : "each with one seed only";
      const over = count > 1 ? `${count} categories, ${each}` : `${seeds} seeds of the one category that counts`;
      return [rows, count === 1 && seeds === 1 ? "One category and one seed: there is no interval." : `Interval of the mean by Student's t over ${over}.`];
    }
    const [c] = categories;
    const own = kept.map((key) => indices(runs, m, categories).map((i) => runs.values[split][key][i]).filter((value) => value !== null));
    const most = Math.max(0, ...own.map((values) => values.length));
    if (most === 0) return [[], "There is no number."];
    if (most === 1) return [[], `${seeds === 1 ? "One seed only" : `One of ${seeds} seeds only`}: there is no interval.`];
    const means = own.map((values) => (values.length ? values.map(Number).reduce((a, b) => a + b) / values.length : null));
    const halves = kept.map((key) => runs.half[split][key][m * runs.categories.length + c]);
    return [
      [
        ["Mean", ...means.map((mean) => (mean === null ? "–" : text(mean)))],
        ["95 % interval", ...means.map((mean, k) => (mean === null || halves[k] === null ? "–" : range(mean - Number(halves[k]), mean + Number(halves[k]))))],
      ],
      `Interval of the mean by Student's t over ${most} ${most < seeds ? `of ${seeds} ` : ""}seeds.`,
    ];
  }

  /** @param {string} title @param {(number | null | undefined)[]} places @param {string[]} from */
  function texts(title, places, from) {
    const own = [...new Set(places.filter((place) => place != null))].slice(0, 8).map((place) => from[Number(place)]);
    return own.map((text) => make("details", title.startsWith("Why") ? { open: "" } : {}, make("summary", {}, title), make("pre", {}, text)));
  }

  /** Thresholds from normal images, and what they do. @param {Runs} runs @param {string} split @param {number} m @param {number[]} categories */
  function atTheLine(runs, split, m, categories) {
    const found = indices(runs, m, categories).filter((i) => runs.line[i]).slice(0, 40);
    if (!found.length) return [];
    const group = found.some((i) => runs.line[i].fpr[split]) ? split : "all";
    const body = make("tbody"), notes = new Set();
    for (const i of found) {
      const { rows, fpr, notes: own, validation } = runs.line[i];
      const run = `${runs.categories[Math.floor(i / runs.seeds.length) % runs.categories.length]}, seed ${runs.seeds[i % runs.seeds.length]}`;
      own.forEach((note) => notes.add(note));
      for (const [name, value, alarms, recall] of rows) {
        const cells = [name, value, alarms, recall[group] ?? "–", ...(fpr[group] ?? ["–", "–"]), String(validation)];
        body.append(make("tr", {}, make("th", { scope: "row" }, run), ...cells.map((text) => make("td", {}, text))));
      }
    }
    const heads = ["Run", "Threshold", "Score", "False alarms", "Recall", "FPR at 95 % recall", "FPR at 99 %", "Normal images"];
    const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
    return [
      make("h3", {}, "At the line"),
      make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "At the line" }, make("table", {}, head, body)),
      make("p", {}, ["Thresholds from normal validation images alone; what they do on the test images, with 95 % intervals by Wilson's score.", ...[...notes].map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`)].join(" ")),
    ];
  }

  // ---- Curves over epochs

  /** @param {Runs} runs @param {number} m @param {number[]} categories */
  function curves(runs, m, categories) {
    const found = indices(runs, m, categories).filter((i) => runs.curve[i]).slice(0, 6);
    if (!found.length) return [];
    const drawn = found.flatMap((i) => {
      const c = Math.floor(i / runs.seeds.length) % runs.categories.length;
      const label = `${runs.categories[c]}, seed ${runs.seeds[i % runs.seeds.length]}`;
      const { epochs, series, test } = runs.curve[i];
      const losses = chart(epochs, series, `Training losses, ${label}`, true);
      return test ? [chart(epochs, { "test image AUROC in %": test }, `Test image AUROC, ${label}`, false), losses] : [losses];
    });
    return [make("h3", {}, "Over the epochs"), make("div", { class: "curves" }, ...drawn)];
  }

  /**
   * @param {number[]} epochs @param {Record<string, (number | null)[]>} series
   * @param {string} title @param {boolean} logarithmic
   */
  function chart(epochs, series, title, logarithmic) {
    const [left, top, width, height] = [60, 8, 260, 120];
    const shown = Object.entries(series).slice(0, 4);
    const scale = (/** @type {number} */ value) => (logarithmic ? Math.log10(value) : value);
    const usable = (/** @type {number | null} */ value) => value !== null && (!logarithmic || value > 0);
    const values = shown.flatMap(([, line]) => line.filter(usable)).map((value) => scale(Number(value)));
    if (!values.length) return make("p", {}, `${title}: nothing to draw.`);
    const low = Math.min(...values), high = Math.max(...values) === low ? low + 1 : Math.max(...values);
    const x = (/** @type {number} */ i) => left + (width * (epochs[i] - epochs[0])) / Math.max(epochs[epochs.length - 1] - epochs[0], 1);
    const y = (/** @type {number} */ value) => top + height * (1 - (scale(value) - low) / (high - low));
    const parts = [`<path class="axis" d="M${left} ${top}V${top + height}H${left + width}"/>`];
    for (const end of [low, high]) {
      const value = logarithmic ? 10 ** end : end;
      parts.push(`<text class="end" x="${left - 5}" y="${(y(value) + 4).toFixed(1)}">${Number(value.toPrecision(3))}</text>`);
    }
    for (const i of [0, epochs.length - 1]) parts.push(`<text class="mid" x="${x(i)}" y="${top + height + 16}">${epochs[i]}</text>`);
    parts.push(`<text class="mid" x="${left + width / 2}" y="${top + height + 16}">epoch</text>`);
    shown.forEach(([, line], place) => {
      const points = line.flatMap((value, i) => (usable(value) ? [`${x(i).toFixed(1)} ${y(Number(value)).toFixed(1)}`] : []));
      if (points.length) parts.push(`<path class="line s${place}" d="M${points.join("L")}"/>`);
    });
    const figure = make("figure");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const box = `0 0 ${left + width + 14} ${top + height + 22}`;
    for (const [name, value] of Object.entries({ class: "chart", role: "img", viewBox: box, width: String(left + width + 14), "aria-label": title }))
      svg.setAttribute(name, value);
    // Only numbers and words of this script go into the markup.
    svg.innerHTML = parts.join("");
    const key = make("span", { class: "soft" });
    shown.forEach(([name], place) => {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      for (const [attribute, value] of Object.entries({ width: "26", height: "8", "aria-hidden": "true" })) line.setAttribute(attribute, value);
      line.innerHTML = `<path class="line s${place}" d="M0 4H24"/>`;
      key.append(line, ` ${name}  `);
    });
    figure.append(make("figcaption", {}, title, make("br"), key), svg);
    return figure;
  }

  // ---- Start

  function apply() {
    state = readState();
    for (const name of FIELDS) {
      const field = /** @type {HTMLInputElement | HTMLSelectElement} */ (form.elements.namedItem(name));
      field.value = wanted(name);
      if (field.value !== wanted(name)) state.delete(name);
    }
    filter();
    const [table, column, way] = wanted("sort").split(".");
    if (tables[Number(table)]?.tHead?.rows[0].cells[Number(column)] && column) sort(tables[Number(table)], Number(column), way === "down");
    if (wanted("open")) void open(wanted("open"));
    else if (dialog.open) dialog.close();
  }

  fillForm();
  addSorting();
  for (const { table } of indexed) near.observe(table);
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const field = /** @type {HTMLInputElement} */ (event.target);
    state.set(field.name, field.value);
    filter();
    writeState();
  });
  form.addEventListener("reset", () => {
    for (const name of FIELDS) state.delete(name);
    filter();
    writeState();
  });
  document.addEventListener("click", (event) => {
    const cell = /** @type {Element} */ (event.target).closest?.("table.opens tbody td");
    if (cell instanceof HTMLTableCellElement && cell.querySelector("button")) void open(opened(cell));
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    state.delete("open");
    writeState();
  });
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=")) apply();
  });
  apply();
})();
