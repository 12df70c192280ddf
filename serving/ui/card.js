// A run's card: a column for each version that makes it, from "waiting" to the video, and the scores of all of them.

import { content } from "./api.js";
import { make } from "./make.js";
import { scoreTable } from "./scores.js";

const STAGES = { encode: "Reading the pictures", high: "High-noise expert", low: "Low-noise expert",
  decode: "Drawing the frames", evaluate: "Measuring" };

export function card(prompt, actions) {
  const run = make("article", "", { class: "run" }), body = make("div", "", { class: "body" });
  body.append(make("div", "", { class: "columns" }), make("div", "", { class: "measured" }));
  run.append(make("h3", prompt), body);
  run.actions = actions;
  run.jobs = new Map();
  return run;
}

export function versionName(job) {
  const name = job.version?.name;
  if (!name) return "the base alone";
  return job.version.version ? `${name}/${job.version.version}` : name;
}

export function showJob(run, job) {
  let column = run.querySelector(`[data-id="${CSS.escape(job.id)}"]`);
  if (!column) {
    column = make("section", "", { class: "column", "data-id": job.id, "aria-label": versionName(job) });
    run.querySelector(".columns").append(column);
  }
  run.jobs.set(job.id, job);
  if (column.dataset.status === "completed") return;
  column.dataset.status = job.status;
  if (job.status === "completed") return finished(run, column, job);
  if (job.status === "failed") return failed(run, column, job);
  if (!column.querySelector("progress")) begun(run, column, job);
  column.querySelector(".state").textContent = inWords(job);
  column.querySelector("progress").value = job.progress;
  preview(column, job);
  arrange(run);
}

export function dropJob(run, id) {
  run.jobs.delete(id);
  run.querySelector(`[data-id="${CSS.escape(id)}"]`)?.remove();
  if (run.jobs.size) arrange(run);
  else run.remove();
}

function heading(job) {
  const title = make("h4", versionName(job)), seed = job.request?.seed;
  if (seed !== undefined) title.append(make("span", `seed ${seed}`, { class: "faint" }));
  return title;
}

// Built once; afterwards changed in place, so that a button keeps its focus.
function begun(run, column, job) {
  const frame = make("div", "", { class: "screen", hidden: "" });
  frame.append(make("img", "", { class: "preview", alt: "preview of the video" }), make("p", "", { class: "caption" }));
  const cancel = make("button", "Cancel", { type: "button", class: "quiet" });
  cancel.addEventListener("click", () => {
    cancel.disabled = true;
    run.actions.cancel(job);
  });
  const bar = make("progress", "", { max: 100, value: 0, "aria-label": `progress of ${versionName(job)}` });
  column.replaceChildren(heading(job), frame, bar, make("p", "", { class: "state" }), buttons(cancel));
}

function buttons(...all) {
  const row = make("div", "", { class: "actions" });
  row.append(...all);
  return row;
}

function remover(run, job) {
  const drop = make("button", "Delete", { type: "button", class: "quiet" });
  drop.addEventListener("click", () => run.actions.remove(job, run));
  return drop;
}

function failed(run, column, job) {
  const held = column.contains(document.activeElement), drop = remover(run, job);
  const cancelled = job.error?.code === "cancelled";
  const state = make("p", inWords(job), { class: cancelled ? "state faint" : "state state-failed" });
  column.replaceChildren(heading(job), state, buttons(drop));
  if (held) drop.focus();
  arrange(run);
}

function inWords(job) {
  if (job.status === "queued") {
    const place = job.position ? `Waiting, number ${job.position} in the queue` : "Waiting";
    const seconds = job.estimated_start ? Math.round(job.estimated_start - Date.now() / 1000) : 0;
    return seconds > 1 ? `${place}, starts in about ${seconds} s` : place;
  }
  if (job.status === "in_progress") {
    const step = job.steps && ["high", "low"].includes(job.stage) ? `, step ${job.step} of ${job.steps}` : "";
    return `${STAGES[job.stage] ?? "Starting"}${step}`;
  }
  if (job.status === "failed") {
    return job.error?.code === "cancelled" ? "Cancelled" : `Failed: ${job.error?.message ?? "no reason was given"}`;
  }
  const took = job.completed_at && job.started_at ? ` in ${Math.max(1, job.completed_at - job.started_at)} s` : "";
  return `Made${took}`;
}

// The picture of a job that runs; the one before it stays until the next has come.
function preview(column, job) {
  const image = column.querySelector("img.preview"), step = String(job.preview_step ?? "");
  if (!step || image.dataset.step === step) return;
  image.dataset.step = step;
  content(job.id, "preview").then((url) => {
    URL.revokeObjectURL(image.src);
    image.src = url;
    image.parentNode.hidden = false;
    column.querySelector(".caption").textContent = `preview at step ${step}`;
  }).catch(() => { /* the next one is already there, or the video is */ });
}

async function finished(run, column, job) {
  const film = make("video", "", { controls: "", loop: "", playsinline: "",
    "aria-label": `video by ${versionName(job)}: ${job.prompt}` });
  film.muted = true;
  [film.width, film.height] = (job.size || "1x1").split("x").map(Number); // its shape, before it is loaded
  const strip = make("div", "", { class: "strip", tabindex: 0, role: "group", "aria-label": "frames of the video" });
  const frame = make("div", "", { class: "screen" }), state = make("p", inWords(job), { class: "state state-completed" });
  const save = make("a", "Save the mp4", { download: `${job.id}.mp4` });
  frame.append(film);
  column.replaceChildren(heading(job), frame, strip, state, ...notes(job), buttons(save, remover(run, job)));
  arrange(run);
  try {
    save.href = film.src = await content(job.id, "video");
    together(run);
    if (!job.variants.includes("filmstrip")) return strip.remove();
    const image = make("img", "", { alt: `frames of the video: ${job.prompt}` });
    image.src = await content(job.id, "filmstrip");
    strip.append(image);
  } catch (error) {
    column.append(make("p", error.message, { class: "problem" }));
  }
}

const notes = (job) => (job.notes ?? []).map((note) => make("p", note, { class: "faint" }));

// Videos that are compared start again at one moment.
function together(run) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const film of run.querySelectorAll("video[src]")) {
    film.currentTime = 0;
    film.play().catch(() => { /* the browser wants a click first */ });
  }
}

// The scores beside one video, below several.
function arrange(run) {
  const shown = [...run.querySelectorAll(".column")].map((column) => run.jobs.get(column.dataset.id));
  const done = shown.filter((job) => job.status === "completed"), place = run.querySelector(".measured");
  run.dataset.columns = shown.length;
  run.classList.toggle("over", done.length === 0 && shown.every((job) => job.status === "failed"));
  const open = [...place.querySelectorAll("details[open]")].length || place.contains(document.activeElement);
  if (open && place.dataset.of === done.map((job) => job.id).join()) return;
  place.dataset.of = done.map((job) => job.id).join();
  const table = done.length ? scoreTable(done, done.map(versionName)) : null;
  place.replaceChildren(...(table ? [make("h4", shown.length > 1 ? "Scores, side by side" : "Scores"), table]
    : done.length ? [make("p", "Not measured.", { class: "faint" })] : []));
}
