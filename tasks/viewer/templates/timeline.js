// Trajectories: a column for each run, with a timeline of pictures, thoughts, calls and answers.

const seconds = (value) => value === null ? "–" : value > 0 && value < 0.01 ? `${(1000 * value).toPrecision(2)} ms` : value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(1)} s`;
const nats = (value) => value >= 0.1 ? value.toFixed(3) : value.toPrecision(2);

/** The name of a run, after its letter if there are several runs: two may have the same name. */
const named = (run, letter) => letter ? `${letter} ${run.name}` : run.name;

/** The word and the CSS class for the result of a rollout. */
function verdict(rollout) {
  if (rollout.right) return ["right", "good"];
  return rollout.answer === null ? ["no answer", "warn"] : ["wrong", "bad"];
}

function flat(value, prefix = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    return [[prefix, typeof value === "string" ? value : JSON.stringify(value)]];
  }
  return Object.entries(value).flatMap(([k, v]) => flat(v, prefix ? `${prefix}.${k}` : k));
}

/** Make the view of a sample: its head, and a column for each run. */
function sampleView(sample, details, index, state, choose) {
  const head = el("header", { class: "question" },
    el("p", { class: "id" }, sample.id, sample.category ? ` · ${sample.category}` : ""),
    el("h2", {}, sample.question),
    el("p", { class: "expected" }, "expected ", el("b", {}, sample.expected)));
  const tabs = el("div", { class: "tabs", role: "group", "aria-label": "Run" },
    ...index.runs.map((run, r) => el("button", {
      "aria-pressed": String(r === state.run), onclick: () => choose({ run: r, step: null }),
    }, named(run, state.letters?.[r]))));
  const columns = el("div", { class: "columns" }, ...index.runs.map((run, r) => column(
    run, r, sample.runs[r], details[r], state, choose)));
  columns.style.setProperty("--runs", index.runs.length);
  return [head, ...(index.runs.length > 1 ? [tabs] : []), columns];
}

function column(run, r, summary, trajectories, state, choose) {
  const focused = r === state.run;
  const section = el("section", { class: `column${focused ? " focused" : ""}`, "aria-label": `Run ${named(run, state.letters?.[r])}`, "data-run": r });
  const head = el("header", {}, el("h3", {}, state.letters && el("b", {}, state.letters[r]), run.name));
  section.append(head);
  if (!summary) {
    section.append(el("p", { class: "quiet" }, "This run does not have the sample."));
    return section;
  }
  if (summary.error) section.append(el("p", { class: "fault" }, summary.error));
  const number = Math.min(state.rollouts[r] ?? 0, summary.rollouts.length - 1);
  if (summary.rollouts.length > 1) {
    head.append(el("div", { class: "rollouts", role: "group", "aria-label": "Rollout" },
      ...summary.rollouts.map((rollout, k) => el("button", {
        class: verdict(rollout)[1], "aria-pressed": String(k === number),
        "aria-label": `Rollout ${k + 1}, ${verdict(rollout)[0]}`,
        onclick: () => choose({ run: r, rollout: k, step: null }),
      }, String(k + 1)))));
  }
  if (number >= 0) section.append(...timeline(summary.rollouts[number], trajectories[number], r, state, choose));
  const settings = flat(run.settings);
  if (settings.length) {
    section.append(el("details", { class: "settings" }, el("summary", {}, "Settings"),
      el("dl", {}, ...settings.flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]))));
  }
  return section;
}

function timeline(rollout, trajectory, r, state, choose) {
  const { opening, steps } = trajectory;
  const boxes = steps.flatMap((step, s) => step.calls.filter((call) => call.box)
    .map((call) => ({ step: s, box: call.box, source: call.source })));
  const on = (number) => boxes.filter((box) => box.source === number);
  const [word, mood] = verdict(rollout);
  const total = sum(steps.map(spent)), replay = sum(steps.map((step) => step.replay?.seconds)), tools = sum(steps.map((step) => step.tools));
  const longest = Math.max(...steps.map(spent), 1e-9);
  const widest = Math.max(...steps.map((step) => step.replay?.before ?? 0), ...steps.map((step) => step.replay?.after ?? 0), 1e-12);
  const facts = el("p", { class: "facts" },
    el("b", { class: mood }, word), ` · ${rollout.stop.replaceAll("_", " ")} · ${steps.length} step${steps.length === 1 ? "" : "s"} · ${seconds(total)}`,
    replay ? `, ${seconds(replay)} of it replay` : "", tools ? `, ${seconds(tools)} tools` : "", ` · seed ${rollout.seed}`);
  const items = steps.map((step, s) => stepItem(step, s, { on, longest, widest, focused: r === state.run && s === state.step, go: () => choose({ run: r, step: s }) }));
  const end = el("li", { class: `end ${mood}` },
    rollout.answer === null ? el("p", { class: "answer" }, "no answer")
      : el("p", { class: "answer" }, rollout.answer),
    el("p", { class: "verdict" }, word,
      rollout.cot === null || rollout.cot === undefined ? "" : rollout.cot ? ", reasoning right" : ", reasoning wrong"));
  return [facts, el("div", { class: "opening" }, ...views(opening, on, "picture of the question")), el("ol", { class: "timeline" }, ...items, end)];
}

const sum = (values) => values.reduce((all, value) => all + (value ?? 0), 0);

/** The seconds of a step: the policy's turn and its tools. */
const spent = (step) => (step.seconds ?? 0) + (step.tools ?? 0);

/** Make pictures and videos with their maps, and with the boxes of calls on them. */
function views(items, on, label) {
  return items.map((view) => {
    const isVideo = view.frames.length > 1;
    const pictures = view.frames.map((number, f) => {
      const map = view.map && {
        image: view.map.image, rows: view.map.grid[1], columns: view.map.grid[2],
        // Frames are merged in time: several share a step of the map.
        time: Math.floor(f * view.map.grid[0] / view.frames.length),
        max: view.map.max,
      };
      const time = view.times?.[f] ?? null;
      return el("figure", {}, picture(number, { of: view.of, boxes: on(view.of ?? number), map, label: time === null ? label : `frame at ${time.toFixed(2)} seconds` }),
        time === null ? null : el("figcaption", {}, `${time.toFixed(2)} s`));
    });
    const box = el("div", { class: isVideo ? "view video" : "view" }, el("div", { class: "frames" }, ...pictures));
    if (view.map) box.append(legend(view.map));
    return box;
  });
}

function stepItem(step, s, { on, longest, widest, focused, go }) {
  const item = el("li", { class: "step", "data-step": s, "aria-current": focused ? "step" : null });
  item.append(el("button", { class: "number", "aria-label": `Step ${s + 1}`, onclick: go }, String(s + 1)));
  if (step.thought) item.append(el("p", { class: "thought" }, step.thought));
  for (const call of step.calls) {
    item.append(el("p", { class: "call" }, el("b", {}, call.name), " ", call.arguments));
    if (call.error) item.append(el("p", { class: "fault" }, call.error));
    if (call.views.length) {
      const back = el("div", { class: "back" });
      if (call.box) {
        back.append(el("figure", { class: "locator" }, picture(call.source, { boxes: [{ step: s, box: call.box }], label: "picture with the box of the call" })),
          el("span", { class: "arrow", "aria-hidden": "true" }, "→"));
      }
      const single = call.views.every((view) => view.frames.length === 1) && call.views.length > 1;
      back.append(el("div", { class: single ? "observed strip" : "observed" }, ...views(call.views, on, "result of the call")));
      item.append(back);
    }
    if (call.text) item.append(el("p", { class: "result" }, call.text));
  }
  if (step.error) item.append(el("p", { class: "fault" }, step.error));
  item.append(measures(step, longest, widest));
  item.append(el("details", { class: "raw" }, el("summary", {}, "Raw text of the turn"), el("pre", {}, step.text)));
  return item;
}

/** KL before and after as two bars; the time of the step as one: replay, rest of the turn, tools. */
function measures(step, longest, widest) {
  const { replay } = step;
  const box = el("dl", { class: "measures" });
  const bar = (kind, share) => {
    const element = el("i", { class: kind });
    element.style.width = share > 0 ? `${Math.max(1, 100 * share)}%` : "0";
    return element;
  };
  if (replay && replay.before !== null) {
    const change = replay.before > 0 && replay.after !== null ? Math.round(100 * (replay.after / replay.before - 1)) : null;
    const bars = el("span", { class: "bars kl", "aria-hidden": "true" }, bar("before", replay.before / widest));
    if (replay.after !== null) bars.append(bar("after", replay.after / widest));
    box.append(el("dt", {}, "KL"), el("dd", {}, bars,
      `${nats(replay.before)} → ${replay.after === null ? "–" : nats(replay.after)} nats`,
      change === null ? null : el("small", {}, `${change <= 0 ? "−" : "+"}${Math.abs(change)} %`),
      el("small", {}, `${replay.method} replay over ${replay.tokens} new visual tokens`, replay.steps ? ` in ${replay.steps} steps` : "")));
  }
  const replayed = Math.min(replay?.seconds ?? 0, step.seconds ?? 0), rest = (step.seconds ?? 0) - replayed;
  const parts = [[replay?.seconds, "replay"], [rest, "rest"], [step.tools, "tools"]].filter(([value]) => value > 0);
  box.append(el("dt", {}, "time"), el("dd", {},
    el("span", { class: "bars time", "aria-hidden": "true" }, bar("replay", replayed / longest), bar("rest", rest / longest), bar("called", (step.tools ?? 0) / longest)),
    seconds(step.seconds === null ? null : spent(step)),
    parts.length > 1 ? el("small", {}, parts.map(([value, word]) => `${seconds(value)} ${word}`).join(", ")) : null));
  return box;
}
