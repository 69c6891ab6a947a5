// The page: the list with its filters, the chosen sample, and how to move between samples.

const index = JSON.parse(document.getElementById("index").textContent);
const at = (id) => document.getElementById(id);
const ROW = 62; // height of a row in the list, in CSS pixels
const letters = index.runs.length > 1 ? index.runs.map((_, r) => String.fromCharCode(65 + r)) : null;
const state = { sample: null, run: 0, rollouts: [], step: null, letters };
const filter = { verdict: "all", run: "", stop: "", category: "", words: [] };
let matching = []; // numbers of the samples that match, in order

// --- samples ----------------------------------------------------------------------------------

const mostlyRight = (run) => run.rollouts.filter((rollout) => rollout.right).length * 2 > run.rollouts.length;

/** Whether most rollouts are right in one run, but not in another run that has the sample. */
function flipped(sample) {
  const runs = sample.runs.filter((run) => run && !run.error && run.rollouts.length);
  return runs.some(mostlyRight) && !runs.every(mostlyRight);
}

const isVerdict = {
  all: () => true,
  right: (sample, run) => run.rollouts.some((rollout) => rollout.right && stops(rollout)),
  wrong: (sample, run) => run.rollouts.some((rollout) => !rollout.right && stops(rollout)),
  flipped: (sample) => flipped(sample),
  error: (sample, run) => run.error !== null,
};

const stops = (rollout) => !filter.stop || rollout.stop === filter.stop;

function matches(sample, number, verdict) {
  const runs = sample.runs.filter((run, r) => run && (filter.run === "" || Number(filter.run) === r));
  return (!filter.category || sample.category === filter.category)
    && runs.some((run) => isVerdict[verdict](sample, run) && (!filter.stop || run.rollouts.some(stops)))
    && filter.words.every((word) => text(number).includes(word));
}

const texts = []; // searchable text by sample, made at the first search

/** The searchable text of a sample, in lower case. */
function text(number) {
  const sample = index.samples[number];
  if (texts[number] === undefined) {
    const parts = [sample.id, sample.question, sample.expected, sample.category ?? ""];
    for (const run of sample.runs) {
      if (run?.error) parts.push(run.error);
      for (const rollout of run?.rollouts ?? []) parts.push(rollout.answer ?? "");
    }
    const data = at(`d${number}`);
    if (data?.nextSibling) {
      for (const trajectory of JSON.parse(data.textContent).flatMap((run) => run ?? [])) {
        for (const step of trajectory.steps) {
          parts.push(step.text, step.error ?? "");
          for (const call of step.calls) parts.push(call.name, call.text ?? "", call.error ?? "");
        }
      }
    }
    const all = parts.join("\n").toLowerCase();
    if (!data?.nextSibling) return all; // the page is still being read
    texts[number] = all;
  }
  return texts[number];
}

// --- the list ---------------------------------------------------------------------------------

function applyFilter() {
  const counts = Object.fromEntries(Object.keys(isVerdict).map((name) => [name, 0]));
  matching = [];
  index.samples.forEach((sample, number) => {
    for (const name in counts) counts[name] += matches(sample, number, name);
    if (matches(sample, number, filter.verdict)) matching.push(number);
  });
  for (const button of at("verdicts").children) {
    const { verdict: name } = button.dataset;
    button.setAttribute("aria-pressed", String(name === filter.verdict));
    button.lastChild.textContent = counts[name];
  }
  at("count").textContent = matching.length ? `${matching.length} of ${index.samples.length} samples` : "No sample matches.";
  at("rows").style.height = `${matching.length * ROW}px`;
  at("rows").replaceChildren();
  drawRows();
}

/** Keep in the list only the rows in sight and a few around them. */
function drawRows() {
  const list = at("list"), rows = at("rows");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 8);
  const last = Math.min(matching.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 8);
  const existing = new Map();
  for (const row of [...rows.children]) {
    const place = Number(row.dataset.place);
    if (place < first || place >= last) row.remove();
    else existing.set(place, row);
  }
  for (let place = first; place < last; place++) {
    const row = existing.get(place) ?? rows.appendChild(rowOf(matching[place], place));
    const button = row.firstChild;
    if (matching[place] === state.sample) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function rowOf(number, place) {
  const sample = index.samples[number];
  const row = el("li", { "data-place": place, "aria-setsize": matching.length, "aria-posinset": place + 1 },
    el("button", { onclick: () => choose({ sample: number, step: null, open: true }) },
      el("span", { class: "what" }, sample.question),
      el("span", { class: "id" }, el("bdi", {}, sample.id)),
      el("span", { class: "chips" }, ...sample.runs.map(chip))));
  row.style.top = `${place * ROW}px`;
  return row;
}

/** Make the mark for the result of a sample in one run; with several rollouts, "right/all". */
function chip(run, r) {
  const letter = letters && el("b", { "aria-label": named(index.runs[r], letters[r]) }, letters[r]);
  let [mark, mood, word] = ["–", "none", "not in this run"];
  if (run?.error) [mark, mood, word] = ["!", "warn", "error"];
  else if (run?.rollouts.length) {
    const right = run.rollouts.filter((rollout) => rollout.right).length, of = run.rollouts.length;
    mood = right * 2 > of ? "good" : "bad";
    mark = of > 1 ? `${right}/${of}` : right ? "✓" : "✗";
    word = of > 1 ? `${right} of ${of} right` : right ? "right" : "wrong";
  }
  return el("span", { class: `chip ${mood}` }, letter, el("span", { "aria-label": word, role: "img" }, mark));
}

// --- choosing ---------------------------------------------------------------------------------

/** Go to a sample, run, rollout or step; whatever the caller leaves out stays the same. */
function choose({ sample = state.sample, run = state.run, rollout, step = state.step, open = false }) {
  if (sample !== state.sample && rollout === undefined) state.rollouts = [];
  const moved = sample !== state.sample;
  Object.assign(state, { sample, run, step });
  if (rollout !== undefined) state.rollouts[run] = rollout;
  if (open) document.body.classList.add("reading");
  drawRows();
  writeLink();
  return draw(moved);
}

let draws = 0;

async function draw(moved) {
  const turn = ++draws;
  const sample = index.samples[state.sample];
  const data = await block(`d${state.sample}`);
  if (turn !== draws) return; // the user has chosen another sample meanwhile
  const detail = at("detail");
  const top = detail.scrollTop;
  detail.replaceChildren(...sampleView(sample, JSON.parse(data.textContent), index, state, choose));
  detail.scrollTop = moved ? 0 : top;
  const column = detail.querySelector(".column.focused");
  if (state.step !== null) {
    for (const box of column.querySelectorAll(".box")) {
      box.classList.toggle("faint", Number(box.dataset.step) !== state.step);
    }
    column.querySelector("li[aria-current]")?.scrollIntoView({ block: "nearest" });
  }
}

function stepCount() {
  return document.querySelectorAll(".column.focused li.step").length;
}

const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));

function moveSample(by) {
  if (!matching.length) return;
  const place = matching.indexOf(state.sample);
  const next = place < 0 ? 0 : clamp(place + by, matching.length);
  const list = at("list");
  if (next * ROW < list.scrollTop) list.scrollTop = next * ROW;
  else if ((next + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (next + 1) * ROW - list.clientHeight;
  choose({ sample: matching[next], step: null });
}

function moveStep(by) {
  const count = stepCount();
  if (count) choose({ step: clamp(state.step === null ? (by > 0 ? 0 : count - 1) : state.step + by, count) });
}

function moveRollout(by) {
  const count = index.samples[state.sample].runs[state.run]?.rollouts.length ?? 0;
  if (count) choose({ rollout: clamp((state.rollouts[state.run] ?? 0) + by, count), step: null });
}

// --- links ------------------------------------------------------------------------------------

function writeLink() {
  const link = new URLSearchParams({ sample: index.samples[state.sample].id });
  if (index.runs.length > 1) link.set("run", letters[state.run]);
  link.set("rollout", (state.rollouts[state.run] ?? 0) + 1);
  if (state.step !== null) link.set("step", state.step + 1);
  history.replaceState(null, "", `#${link}`);
}

/** The run of a letter, or of a unique name; otherwise the first run. */
function runOf(link) {
  const letter = letters?.indexOf(link) ?? -1;
  if (letter >= 0) return letter;
  const sameName = index.runs.flatMap(({ name }, r) => name === link ? [r] : []);
  return sameName.length === 1 ? sameName[0] : 0;
}

/** Go to the place in the address; false if it names no sample of this page. */
function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  const sample = index.samples.findIndex(({ id }) => id === link.get("sample"));
  if (sample < 0) return false;
  const run = runOf(link.get("run"));
  const count = index.samples[sample].runs[run]?.rollouts.length ?? 0;
  const rollout = Math.max(0, clamp((Number.parseInt(link.get("rollout")) || 1) - 1, count));
  const step = Number.parseInt(link.get("step"));
  const place = matching.indexOf(sample);
  if (place >= 0) at("list").scrollTop = (place - 2) * ROW;
  choose({ sample, run, rollout, step: step > 0 ? step - 1 : null, open: true });
  return true;
}

// --- controls ---------------------------------------------------------------------------------

function switchMaps() {
  const on = document.body.classList.toggle("maps");
  at("maps").setAttribute("aria-pressed", String(on));
  if (on) mapsSwitched();
}

function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const root = document.documentElement;
  const now = root.dataset.theme ?? (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
}

function options(select, all, values, words = values) {
  select.hidden = values.length < 2;
  select.append(new Option(all, ""), ...values.map((value, i) => new Option(words[i], value)));
  select.addEventListener("change", () => {
    filter[select.id] = select.value;
    applyFilter();
  });
}

const distinct = (values) => [...new Set(values)].sort();

function setUp() {
  at("totals").append(...index.runs.map((run, r) => {
    const rollouts = index.samples.flatMap((sample) => sample.runs[r]?.rollouts ?? []);
    const right = rollouts.filter((rollout) => rollout.right).length;
    const errors = index.samples.filter((sample) => sample.runs[r]?.error).length;
    return el("span", { class: "total" }, letters && el("b", {}, letters[r]), run.name,
      el("em", { title: `${right} of ${rollouts.length} trajectories are right` }, rollouts.length ? `${(100 * right / rollouts.length).toFixed(1)} %` : "–"),
      errors ? el("em", { class: "warn", title: "samples that ended in an error are not counted" }, `${errors} ${errors === 1 ? "error" : "errors"}`) : "");
  }));
  for (const name of Object.keys(isVerdict)) {
    if (name === "flipped" && index.runs.length < 2) continue;
    at("verdicts").append(el("button", {
      "data-verdict": name,
      onclick: () => { filter.verdict = name; applyFilter(); },
    }, name, " ", el("small", {})));
  }
  const rollouts = index.samples.flatMap((sample) => sample.runs.flatMap((run) => run?.rollouts ?? []));
  const reasons = distinct(rollouts.map((rollout) => rollout.stop));
  options(at("run"), "any run", index.runs.map((run, r) => r), index.runs.map((run, r) => named(run, letters?.[r])));
  options(at("stop"), "any stop reason", reasons, reasons.map((reason) => reason.replaceAll("_", " ")));
  options(at("category"), "any category", distinct(index.samples.map((sample) => sample.category).filter(Boolean)));
  let waiting;
  at("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      filter.words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      at("list").scrollTop = 0;
      applyFilter();
    }, 120);
  });
  at("list").addEventListener("scroll", drawRows, { passive: true });
  new ResizeObserver(drawRows).observe(at("list"));
  at("maps").addEventListener("click", switchMaps);
  at("theme").addEventListener("click", switchTheme);
  at("help").addEventListener("click", () => at("keys").showModal());
  at("close-keys").addEventListener("click", () => at("keys").close());
  at("back").addEventListener("click", () => document.body.classList.remove("reading"));
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
  addEventListener("hashchange", readLink);
  addEventListener("keydown", onKey);
}

const KEYS = {
  j: () => moveSample(1), k: () => moveSample(-1),
  ArrowDown: () => moveSample(1), ArrowUp: () => moveSample(-1),
  ArrowRight: () => moveStep(1), ArrowLeft: () => moveStep(-1),
  "]": () => moveRollout(1), "[": () => moveRollout(-1),
  r: () => choose({ run: (state.run + 1) % index.runs.length, step: null }),
  m: switchMaps, t: switchTheme,
  "/": () => { document.body.classList.remove("reading"); at("search").focus(); at("search").select(); },
  "?": () => at("keys").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target === at("search")) at("search").blur();
  if (event.target.closest("input, select, dialog[open]") || document.querySelector("dialog[open]")) return;
  const act = KEYS[event.key];
  if (!act || state.sample === null && event.key !== "/" && event.key !== "?") return;
  event.preventDefault();
  act();
}

setUp();
applyFilter();
if (!readLink() && matching.length) choose({ sample: matching[0] });
// The search covers thoughts only when the whole page has been read.
parsed.then(() => { if (filter.words.length) applyFilter(); });
