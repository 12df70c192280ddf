// A run's card: a column for each version that makes it, from "queued" to the video beside its scores.

import { content } from "./api.js";

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export function card(prompt, actions) {
  const run = make("article", "", { class: "run" });
  run.append(make("h3", prompt), make("div", "", { class: "columns" }));
  run.actions = actions;
  return run;
}

export function showJob(run, job) {
  let column = run.querySelector(`[data-id="${CSS.escape(job.id)}"]`);
  if (!column) {
    column = make("div", "", { class: "column", "data-id": job.id });
    run.querySelector(".columns").append(column);
  }
  if (column.dataset.status === "completed") return;
  column.dataset.status = job.status;
  const seed = job.request?.seed, active = job.status !== "failed";
  const title = make("h4", job.model + (seed === undefined ? "" : `, seed ${seed}`));
  const state = make("p", inWords(job), { class: `state state-${job.status}` });
  if (job.status === "completed") return finished(run, column, job, title, state);
  const bar = column.querySelector("progress");
  if (active && bar) { // changed in place, so that a button keeps its focus
    column.querySelector(".state").replaceWith(state);
    bar.value = job.progress;
    return preview(column, job);
  }
  const button = make("button", active ? "Cancel" : "Delete", { type: "button", class: "quiet" });
  button.addEventListener("click", () => {
    button.disabled = active;
    return active ? run.actions.cancel(job) : run.actions.remove(job, column);
  });
  const buttons = make("div", "", { class: "actions" }), held = column.contains(document.activeElement);
  buttons.append(button);
  column.replaceChildren(title, state);
  if (active) {
    column.append(make("progress", "", { max: 100, value: job.progress, "aria-label": `progress of ${job.model}` }),
      make("img", "", { class: "preview", alt: "preview of the video", hidden: "" }));
    preview(column, job);
  }
  column.append(buttons);
  if (held) button.focus();
}

function inWords(job) {
  if (job.status === "queued") {
    const place = job.position ? `waiting, number ${job.position} in the queue` : "waiting";
    const seconds = job.estimated_start ? Math.round(job.estimated_start - Date.now() / 1000) : 0;
    return seconds > 1 ? `${place}, starts in about ${seconds} s` : place;
  }
  if (job.status === "in_progress") {
    const step = job.steps ? `, step ${job.step} of ${job.steps}` : "";
    const names = { encode: "reading the pictures", high: "high-noise expert", low: "low-noise expert",
      decode: "drawing the frames", evaluate: "measuring" };
    return `${names[job.stage] ?? job.stage ?? "starting"}${step}`;
  }
  if (job.status === "failed") return job.error?.code === "cancelled" ? "cancelled" : `failed: ${job.error?.message ?? ""}`;
  const took = job.completed_at && job.started_at ? ` in ${Math.max(1, job.completed_at - job.started_at)} s` : "";
  return `made${took}`;
}

// The picture of a job that runs, where the engine draws one; the one before it stays until the next has come.
function preview(column, job) {
  const image = column.querySelector("img.preview"), step = `${job.stage} ${job.step}`;
  if (!job.variants.includes("preview") || image.dataset.step === step) return;
  image.dataset.step = step;
  content(job.id, "preview").then((url) => {
    URL.revokeObjectURL(image.src);
    image.src = url;
    image.hidden = false;
  }).catch(() => { image.hidden = true; });
}

async function finished(run, column, job, title, state) {
  const film = make("video", "", { controls: "", loop: "", playsinline: "", "aria-label": `video: ${job.prompt}` });
  film.muted = true;
  film.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const strip = make("div", "", { class: "strip", tabindex: 0, role: "group", "aria-label": "frames of the video" });
  const save = make("a", "Save the mp4", { download: `${job.id}.mp4` });
  const drop = make("button", "Delete", { type: "button", class: "quiet" });
  drop.addEventListener("click", () => run.actions.remove(job, column));
  const buttons = make("div", "", { class: "actions" });
  buttons.append(save, drop);
  column.replaceChildren(title, state, film, strip, scores(job), buttons);
  try {
    save.href = film.src = await content(job.id, "video");
    if (!job.variants.includes("filmstrip")) return strip.remove();
    const image = make("img", "", { alt: `frames of the video: ${job.prompt}` });
    image.src = await content(job.id, "filmstrip");
    strip.append(image);
  } catch (error) {
    column.append(make("p", error.message, { class: "problem" }));
  }
}

function scores(job) {
  const entries = Object.entries(job.scores ?? {});
  if (!entries.length) return make("p", "Not measured.", { class: "faint" });
  const table = make("table"), body = make("tbody");
  table.append(make("caption", "scores", { class: "unseen" }), body);
  for (const [name, score] of entries) {
    const row = make("tr"), missing = score.value === null;
    const cell = make("td", missing ? "" : `${Number(score.value.toPrecision(4))} ${score.unit}`.trim());
    if (missing) {
      const why = make("details", "", { class: "none" });
      why.append(make("summary", "unavailable"), make("p", score.unavailable ?? "no reason was given"));
      cell.append(why);
    }
    row.append(make("th", name.replaceAll("_", " "), { scope: "row" }), cell);
    body.append(row);
  }
  return table;
}
